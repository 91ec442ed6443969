//! Control groups, which limit the CPU time and memory of processes: version 1, version 2, and machines with both.
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

/// The period of a CPU quota in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// For each controller, the group in which this process may make groups, or why it may not.
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

/// The groups of one process: one for all controllers (version 2), or one per controller (version 1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
}

impl Cgroups {
    /// Finds the groups in which this process may make groups.
    pub(crate) fn find() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::from_text(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn from_text(mounts: &str, own: &str) -> Self {
        // A process is in only one group of version 2, which must then limit both.
        let both = version_2(mounts, own, &["cpu", "memory"]);
        let parent = |controller: &str| {
            let two = || both.clone().or_else(|| version_2(mounts, own, &[controller]));
            let parent = version_1(mounts, own, controller).or_else(two);
            let parent = parent.ok_or_else(|| {
                format!("no control group above this process limits {controller} and can contain groups")
            })?;
            if access(&parent.folder, Access::WRITE_OK).is_err() {
                let folder = parent.folder.display();
                return Err(format!("this user may not make control groups in {folder}"));
            }
            Ok(parent)
        };
        let cpu = parent("cpu").and_then(|parent| match parent.version {
            Version::One if !parent.folder.join("cpu.cfs_quota_us").exists() && !is_root(&parent.folder) => {
                Err("the kernel was built without CPU quotas (CONFIG_CFS_BANDWIDTH)".to_owned())
            }
            _ => Ok(parent),
        });
        Self { cpu, memory: parent("memory") }
    }

    /// Makes the groups of a process with these limits; `None` if there are no limits.
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
            let (folder, version) = group.add(&self.cpu, name)?;
            match version {
                Version::One => {
                    set(&folder, "cpu.cfs_period_us", &PERIOD.to_string())?;
                    set(&folder, "cpu.cfs_quota_us", &quota.to_string())?;
                }
                Version::Two => set(&folder, "cpu.max", &format!("{quota} {PERIOD}"))?,
            }
        }
        if let Some(memory) = limits.memory {
            let memory = memory.to_string();
            let (folder, version) = group.add(&self.memory, name)?;
            // Swap is limited too, because a server that swaps is slow. Not every kernel supports this.
            match version {
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

    /// Removes the groups without processes whose names start with `prefix`.
    pub(crate) fn sweep(&self, prefix: &str) {
        for parent in [&self.cpu, &self.memory].into_iter().flatten() {
            for entry in fs::read_dir(&parent.folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(prefix) {
                    // A group that has processes cannot be removed.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Group {
    /// Returns the groups of a process whose paths contain `name`; `None` if it is in none.
    pub(crate) fn of(pid: u32, name: &str) -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (mounts, own) = (read("/proc/self/mountinfo"), read(&format!("/proc/{pid}/cgroup")));
        let one = ["cpu", "memory"].map(|controller| version_1(&mounts, &own, controller));
        let mut folders: Vec<_> = one.into_iter().flatten().map(|parent| parent.folder).collect();
        folders.extend(own_group_2(&mounts, &own).map(|(_, folder)| folder));
        folders.retain(|folder| folder.to_str().is_some_and(|folder| folder.contains(name)));
        (!folders.is_empty()).then_some(Self { folders })
    }

    /// Returns the folders of the groups. A process joins by writing its id to `cgroup.procs` in each.
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Returns whether the kernel killed a process of the groups because of the memory limit.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let killed = |events: String| {
            let mut counts = events.lines().filter_map(|line| line.split_once(' '));
            counts.any(|(name, count)| name == "oom_kill" && count.trim() != "0")
        };
        self.read(["memory.events", "memory.oom_control"]).any(killed)
    }

    /// Returns the memory limit in bytes; `None` if there is none.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.read(["memory.max", "memory.limit_in_bytes"]).find_map(|limit| limit.trim().parse().ok())
    }

    /// Reads a file of the groups, by its names in version 2 and in version 1.
    fn read(&self, files: [&'static str; 2]) -> impl Iterator<Item = String> {
        let paths = self.folders.iter().flat_map(move |folder| files.map(|file| folder.join(file)));
        paths.filter_map(|path| fs::read_to_string(path).ok())
    }

    /// Removes the groups, whose processes have ended.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            // A group that still has processes is removed by the next sweep.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Makes a group below `parent`, which may be the reason why there is none. Returns its folder and the version of
    /// its hierarchy.
    fn add(&mut self, parent: &Result<Parent, String>, name: &str) -> Result<(PathBuf, Version), String> {
        let parent = parent.as_ref().map_err(Clone::clone)?;
        let folder = parent.folder.join(name);
        if !self.folders.contains(&folder) {
            fs::create_dir(&folder)
                .map_err(|error| format!("cannot make the control group {}: {error}", folder.display()))?;
            self.folders.push(folder.clone());
        }
        Ok((folder, parent.version))
    }
}

/// Returns whether the kernel's log says that a process was killed for lack of memory in a group whose path contains
/// `name`. Returns `false` if this user may not read the log.
pub(crate) fn killed_for_memory(name: &str) -> bool {
    let mut options = fs::OpenOptions::new();
    let log = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open("/dev/kmsg");
    let Ok(mut log) = log else { return false };
    // A read returns one record, of at most 8 KiB (Documentation/ABI/testing/dev-kmsg).
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
            // Records were overwritten: the next read continues after them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => return false,
        }
    }
}

/// Returns this process's group of a controller of version 1; `None` if the controller is not mounted as version 1.
fn version_1(mounts: &str, own: &str, controller: &str) -> Option<Parent> {
    let has = |list: &str| list.split(',').any(|word| word == controller);
    let (_, mount) = mounted(mounts).find(|(kind, mount)| *kind == "cgroup" && has(mount.options))?;
    let path = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        has(controllers).then_some(path)
    })?;
    Some(Parent { folder: mount.folder(path), version: Version::One })
}

/// Returns the nearest group of version 2, from the process's own group upwards, that enables these controllers for its
/// child groups. Except for the root, a group that contains processes cannot do that.
fn version_2(mounts: &str, own: &str, controllers: &[&str]) -> Option<Parent> {
    let (root, group) = own_group_2(mounts, own)?;
    let enables = |folder: &&Path| {
        let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        controllers.iter().all(|wanted| enabled.split_whitespace().any(|word| word == *wanted))
    };
    let mut groups = group.ancestors().take_while(|folder| folder.starts_with(&root));
    let folder = groups.find(enables)?.to_owned();
    Some(Parent { folder, version: Version::Two })
}

/// Returns the mount point of version 2, and the folder of a process's own group in it.
fn own_group_2(mounts: &str, own: &str) -> Option<(PathBuf, PathBuf)> {
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
    /// Returns the folder of the group with this path in its hierarchy.
    fn folder(&self, path: &str) -> PathBuf {
        let below = Path::new(path).strip_prefix(self.root).unwrap_or(Path::new(""));
        if below.as_os_str().is_empty() { self.point.into() } else { Path::new(self.point).join(below) }
    }
}

fn mounted(mounts: &str) -> impl Iterator<Item = (&str, Mount<'_>)> {
    mounts.lines().filter_map(|line| {
        let (paths, kind) = line.split_once(" - ")?;
        let mut paths = paths.split(' ').skip(3);
        let mut kind = kind.split(' ');
        let (root, point) = (paths.next()?, paths.next()?);
        Some((kind.next()?, Mount { root, point, options: kind.nth(1)? }))
    })
}

/// Returns whether a folder is the root of its hierarchy, which cannot be limited.
fn is_root(folder: &Path) -> bool {
    folder.join("release_agent").exists()
}

fn set(folder: &Path, file: &str, value: &str) -> Result<(), String> {
    fs::write(folder.join(file), value)
        .map_err(|error| format!("cannot write {value} to {}: {error}", folder.join(file).display()))
}

/// Returns the memory of this machine in bytes.
pub(crate) fn memory_of_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
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
        let groups = Cgroups::from_text(&mounts, "0::/user.slice/session.scope\n");
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
    fn where_no_group_can_be_made_the_error_says_why() {
        let groups = Cgroups::from_text("", "");
        let refused = groups.make("x", Limits { cpu: None, memory: Some(1) }).unwrap_err();
        assert!(refused.contains("limits memory"), "{refused}");
    }
}
