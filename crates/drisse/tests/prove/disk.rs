//! Disks that fail, fill up, forget and lie; and the power cut.

mod clock;
mod damage;
mod database;
mod faults;
mod files;
mod known;
mod models;
mod power;
mod room;
mod slow;
mod strace;
mod tools;

/// The chapter of docs/proof.md.
const PART: &str = "2. Disk";
