//! Control groups, which keep a process from using more cpu and memory than it may: version 1, version 2, and
//! machines that have both.
//!
//! Sources: <https://docs.kernel.org/admin-guide/cgroup-v2.html>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>,
//! <https://docs.kernel.org/scheduler/sched-bwc.html>.

use drisse_core::Limits;
use rustix::fs::{Access, OFlags, access};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a share of the cpu is given of, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;

/// Where this process may make groups, for each of what can be limited; or why it may not.
#[derive(Debug)]
pub(crate) struct Cgroups {
    pub(crate) cpu: Result<Parent, String>,
    pub(crate) memory: Result<Parent, String>,
}

/// A group in which others can be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Parent {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// The groups of one process: one, or one for each of what is limited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
}

impl Cgroups {
    /// Looks where this process is.
    pub(crate) fn find() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::in_words(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn in_words(mounts: &str, own: &str) -> Self {
        // A process is in one group of version 2: the same limits both.
        let both = version_2(mounts, own, &["cpu", "memory"]);
        let parent = |controller: &str| {
            let two = || both.clone().or_else(|| version_2(mounts, own, &[controller]));
            let parent = version_1(mounts, own, controller).or_else(two);
            let parent = parent.ok_or_else(|| {
                format!(
                    "the kernel has no control group here that limits {controller} and can have groups in it"
                )
            })?;
            if access(&parent.folder, Access::WRITE_OK).is_err() {
                let folder = parent.folder.display();
                return Err(format!("{folder} is not this user's to make control groups in"));
            }
            Ok(parent)
        };
        let cpu = parent("cpu").and_then(|parent| match parent.version {
            Version::One if !parent.folder.join("cpu.cfs_quota_us").exists() && !is_root(&parent.folder) => {
                Err("the kernel was built without shares of the cpu (CONFIG_CFS_BANDWIDTH)".to_owned())
            }
            _ => Ok(parent),
        });
        Self { cpu, memory: parent("memory") }
    }

    /// Makes the groups of a process that is to be limited; none where it is not.
    pub(crate) fn make(&self, name: &str, limits: Limits) -> Result<Option<Group>, String> {
        let mut group = Group { folders: Vec::new() };
        if let Err(why) = self.fill(&mut group, name, limits) {
            group.remove();
            return Err(why);
        }
        Ok((!group.folders.is_empty()).then_some(group))
    }

    fn fill(&self, group: &mut Group, name: &str, limits: Limits) -> Result<(), String> {
        if let Some(cpu) = limits.cpu {
            let quota = u64::from(cpu) * PERIOD / 1000;
            let parent = self.cpu.as_ref().map_err(Clone::clone)?;
            let folder = group.add(parent, name)?;
            match parent.version {
                Version::One => {
                    set(&folder, "cpu.cfs_period_us", &PERIOD.to_string())?;
                    set(&folder, "cpu.cfs_quota_us", &quota.to_string())?;
                }
                Version::Two => set(&folder, "cpu.max", &format!("{quota} {PERIOD}"))?,
            }
        }
        if let Some(memory) = limits.memory {
            let memory = memory.to_string();
            let parent = self.memory.as_ref().map_err(Clone::clone)?;
            let folder = group.add(parent, name)?;
            // Nothing is swapped out instead, which would be slow; not every kernel counts swap.
            match parent.version {
                Version::One => {
                    set(&folder, "memory.limit_in_bytes", &memory)?;
                    let _ = set(&folder, "memory.memsw.limit_in_bytes", &memory);
                }
                Version::Two => {
                    set(&folder, "memory.max", &memory)?;
                    let _ = set(&folder, "memory.swap.max", "0");
                }
            }
        }
        Ok(())
    }

    /// Removes groups of processes that are gone.
    pub(crate) fn sweep(&self, prefix: &str) {
        for parent in [&self.cpu, &self.memory].into_iter().flatten() {
            for entry in fs::read_dir(&parent.folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    // One that has processes stays.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Group {
    /// The groups that a process is in whose paths have `name` in them.
    pub(crate) fn of(pid: u32, name: &str) -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (mounts, own) = (read("/proc/self/mountinfo"), read(&format!("/proc/{pid}/cgroup")));
        let one = ["cpu", "memory"].map(|controller| version_1(&mounts, &own, controller));
        let mut folders: Vec<_> = one.into_iter().flatten().map(|parent| parent.folder).collect();
        folders.extend(place_2(&mounts, &own).map(|(_, folder)| folder));
        folders.retain(|folder| folder.to_str().is_some_and(|folder| folder.contains(name)));
        (!folders.is_empty()).then_some(Self { folders })
    }

    /// The folders, into whose `cgroup.procs` a process that joins writes itself.
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Whether a process was killed because it used more memory than it may.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let killed = |events: String| {
            let mut counts = events.lines().filter_map(|line| line.split_once(' '));
            counts.any(|(name, count)| name == "oom_kill" && count.trim() != "0")
        };
        self.read(["memory.events", "memory.oom_control"]).any(killed)
    }

    /// The memory that the group may use, in bytes.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.read(["memory.max", "memory.limit_in_bytes"]).find_map(|limit| limit.trim().parse().ok())
    }

    /// What stands in files of the groups, by their names of version 2 and 1.
    fn read(&self, files: [&'static str; 2]) -> impl Iterator<Item = String> {
        let paths = self.folders.iter().flat_map(move |folder| files.map(|file| folder.join(file)));
        paths.filter_map(|path| fs::read_to_string(path).ok())
    }

    /// Removes the groups, whose processes are gone.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            // What stays, because something is left in it, goes with the next sweep.
            let _ = fs::remove_dir(folder);
        }
    }

    fn add(&mut self, parent: &Parent, name: &str) -> Result<PathBuf, String> {
        let folder = parent.folder.join(name);
        if !self.folders.contains(&folder) {
            fs::create_dir(&folder)
                .map_err(|error| format!("cannot make the control group {}: {error}", folder.display()))?;
            self.folders.push(folder.clone());
        }
        Ok(folder)
    }
}

/// Whether the kernel's log has that a process was killed for memory in a group whose path has `name` in it. Only
/// who may read that log is told.
pub(crate) fn killed_for_memory(name: &str) -> bool {
    let mut options = fs::OpenOptions::new();
    let log = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open("/dev/kmsg");
    let Ok(mut log) = log else { return false };
    // A read gives one record (Documentation/ABI/testing/dev-kmsg), and none is longer.
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(size) => {
                let text = String::from_utf8_lossy(&record[..size]);
                if text.contains("oom-kill:") && text.contains(name) {
                    return true;
                }
            }
            // Records that were overwritten are passed over.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => return false,
        }
    }
}

/// The group of a controller of version 1, if it is mounted as one.
fn version_1(mounts: &str, own: &str, controller: &str) -> Option<Parent> {
    let has = |list: &str| list.split(',').any(|word| word == controller);
    let (_, mount) = mounted(mounts).find(|(kind, mount)| *kind == "cgroup" && has(mount.options))?;
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        has(controllers).then_some(path)
    })?;
    Some(Parent { folder: mount.folder(path), version: Version::One })
}

/// The nearest group of version 2, from the process's own upwards, whose groups have these controllers. One that has
/// processes itself gives none to others, unless it is the root.
fn version_2(mounts: &str, own: &str, controllers: &[&str]) -> Option<Parent> {
    let (root, place) = place_2(mounts, own)?;
    let gives = |folder: &&Path| {
        let given = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.iter().all(|wanted| given.split_whitespace().any(|word| word == *wanted))
    };
    let mut places = place.ancestors().take_while(|folder| folder.starts_with(&root));
    let folder = places.find(gives)?.to_owned();
    Some(Parent { folder, version: Version::Two })
}

/// Where version 2 is mounted, and a process's own group in it.
fn place_2(mounts: &str, own: &str) -> Option<(PathBuf, PathBuf)> {
    let (_, mount) = mounted(mounts).find(|(kind, _)| *kind == "cgroup2")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((mount.point.into(), mount.folder(path)))
}

/// A line of `mountinfo`: proc(5).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    /// Where a group is, that a process calls by its path from the hierarchy's root.
    fn folder(&self, path: &str) -> PathBuf {
        let below = Path::new(path).strip_prefix(self.root).unwrap_or(Path::new(""));
        if below.as_os_str().is_empty() { self.point.into() } else { Path::new(self.point).join(below) }
    }
}

fn mounted(mounts: &str) -> impl Iterator<Item = (&str, Mount<'_>)> {
    mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut kind = kind.split(' ');
        let (root, point) = (place.next()?, place.next()?);
        Some((kind.next()?, Mount { root, point, options: kind.nth(1)? }))
    })
}

/// Whether a folder is the root of its hierarchy, which cannot be limited itself.
fn is_root(folder: &Path) -> bool {
    folder.join("release_agent").exists()
}

fn set(folder: &Path, file: &str, value: &str) -> Result<(), String> {
    fs::write(folder.join(file), value)
        .map_err(|error| format!("cannot write {value} to {}: {error}", folder.join(file).display()))
}

/// Bytes of memory this machine has.
pub(crate) fn memory_of_machine() -> Option<u64> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_version_1_with_an_empty_version_2_beside_it_is_understood() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:memory:/docker/abc/inner\n1:cpu,cpuacct:/\n0::/docker/abc\n";
        let folder = |controller| version_1(mounts, own, controller).map(|parent| parent.folder);
        assert_eq!(folder("cpu"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(folder("memory"), Some("/sys/fs/cgroup/memory/inner".into()));
        assert_eq!((folder("pids"), version_2(mounts, own, &["pids"])), (None, None));
    }

    #[test]
    fn of_version_2_the_nearest_group_that_gives_a_controller_to_its_groups_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let point = root.path().display().to_string();
        let slice = root.path().join("user.slice");
        fs::create_dir_all(slice.join("session.scope")).unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        fs::write(slice.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        fs::write(slice.join("session.scope/cgroup.subtree_control"), "\n").unwrap();
        let mounts = format!("30 23 0:27 / {point} rw - cgroup2 cgroup rw\n");
        let groups = Cgroups::in_words(&mounts, "0::/user.slice/session.scope\n");
        assert_eq!(groups.memory.as_ref().unwrap().folder, root.path(), "a process is in one group");
        let memory = version_2(&mounts, "0::/user.slice/session.scope\n", &["memory"]);
        assert_eq!(memory.unwrap().folder, slice);
        assert_eq!(groups.cpu.as_ref().unwrap().folder, root.path());

        let limits = Limits { cpu: Some(500), memory: Some(64 << 20) };
        let group = groups.make("drisse.w.1", limits).unwrap().unwrap();
        let made = root.path().join("drisse.w.1");
        assert_eq!(group.folders(), std::slice::from_ref(&made));
        let read = |file: &str| fs::read_to_string(made.join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("cpu.max")),
            ((64 << 20).to_string(), "50000 100000".to_owned())
        );
        assert!(!group.ran_out_of_memory());
        fs::write(made.join("memory.events"), "oom 3\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
        assert_eq!(group.memory(), Some(64 << 20));
        assert_eq!(groups.make("none", Limits::default()), Ok(None));
    }

    #[test]
    fn where_no_group_can_be_made_the_reason_is_told() {
        let groups = Cgroups::in_words("", "");
        let refused = groups.make("x", Limits { cpu: None, memory: Some(1) }).unwrap_err();
        assert!(refused.contains("limits memory"), "{refused}");
    }
}
