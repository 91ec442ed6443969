-- Times are milliseconds since 1970, in UTC. Tags, properties and the like are JSON.
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE models (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    package TEXT NOT NULL,
    size INTEGER NOT NULL,
    framework TEXT,
    signature TEXT NOT NULL,
    tags TEXT NOT NULL,
    properties TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (name, version),
    UNIQUE (name, digest)
);

CREATE TABLE services (
    name TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    revision INTEGER NOT NULL,
    -- 0: nothing is to run (its first deployment failed).
    active INTEGER NOT NULL,
    replicas INTEGER NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    primary_key TEXT NOT NULL,
    secondary_key TEXT NOT NULL,
    tags TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    -- Grows with everything that is wanted.
    generation INTEGER NOT NULL,
    deleting INTEGER NOT NULL
);
CREATE INDEX services_state ON services (state);
CREATE INDEX services_target ON services (target);

CREATE TABLE revisions (
    service TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    package TEXT NOT NULL,
    auth INTEGER NOT NULL,
    max_wait_ms INTEGER NOT NULL,
    scoring_timeout_ms INTEGER NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (service, revision)
);
CREATE INDEX revisions_model ON revisions (model, version);

CREATE TABLE operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    request TEXT NOT NULL,
    -- What was decided, so that the operation goes on where it was when the control plane ended.
    progress TEXT NOT NULL,
    state TEXT NOT NULL,
    created INTEGER NOT NULL,
    deadline INTEGER,
    finished INTEGER,
    error TEXT,
    result TEXT NOT NULL
);
CREATE INDEX operations_running ON operations (state) WHERE state = 'Running';

CREATE TABLE events (
    operation INTEGER NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (operation, number)
) WITHOUT ROWID;
