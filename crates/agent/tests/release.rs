//! Letting go of a mount, in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program, its helpers included

mod common;

use anshin_agent::release::{Unmounted, is_mounted, kill_users, unmount, users_of};
use common::{Dir, Running, in_namespaces, sh, wait_until};
use std::{process::Command, time::Duration};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn users_by_directory_file_program_and_mapping_are_found_killed_and_the_mount_goes() {
    if !in_namespaces("users_by_directory_file_program_and_mapping_are_found_killed_and_the_mount_goes") {
        return;
    }
    let dir = Dir::new("release");
    let point = dir.path("mount point");
    std::fs::create_dir(&point).unwrap();
    sh(&format!("mount -t tmpfs tmpfs '{}'", point.display()));
    assert!(is_mounted(&point));
    sh(&format!("cp $(command -v sleep) '{}/program'; echo x > '{0}/file'", point.display()));
    let by_directory = Running::start(Command::new("sleep").arg("1000").current_dir(&point));
    let by_program = Running::start(Command::new(point.join("program")).arg("1000"));
    let by_file = Running::start(
        Command::new("sh").args(["-c", "exec 7<\"$0\"; exec sleep 1000"]).arg(point.join("file")),
    );
    let bystander = Running::start(Command::new("sleep").arg("1000"));
    let pids = || users_of(&point).unwrap().into_iter().map(|user| user.pid as u32).collect::<Vec<_>>();
    wait_until("three users", PATIENCE, || pids().len() == 3);
    for user in [&by_directory, &by_program, &by_file] {
        assert!(pids().contains(&user.pid()));
    }
    let busy = unmount(&point, Duration::ZERO, false).unwrap_err();
    assert_eq!(busy.code, "unmount-failed");
    assert!(busy.message.contains("sleep"), "{busy}");
    let killed = kill_users(&point, PATIENCE).unwrap();
    assert_eq!(killed.len(), 3);
    assert_eq!(unmount(&point, PATIENCE, false), Ok(Unmounted::Clean));
    assert!(!is_mounted(&point));
    sh(&format!("kill -0 {}", bystander.pid()));
}

#[test]
fn a_mount_that_stays_busy_goes_out_of_sight_only_if_allowed() {
    if !in_namespaces("a_mount_that_stays_busy_goes_out_of_sight_only_if_allowed") {
        return;
    }
    let dir = Dir::new("lazy");
    let point = dir.path("mount");
    std::fs::create_dir(&point).unwrap();
    for _ in 0..2 {
        sh(&format!("mount -t tmpfs tmpfs {}", point.display()));
    }
    // This process is a user that is never killed.
    let _own = std::fs::File::create(point.join("file")).unwrap();
    assert!(unmount(&point, Duration::from_millis(20), false).is_err());
    assert_eq!(unmount(&point, Duration::from_millis(20), true), Ok(Unmounted::Lazy));
    assert!(!is_mounted(&point), "stacked mounts go too");
}

#[test]
fn a_bind_mount_of_the_root_file_system_does_not_make_everyone_its_user() {
    if !in_namespaces("a_bind_mount_of_the_root_file_system_does_not_make_everyone_its_user") {
        return;
    }
    let dir = Dir::new("bind");
    let point = dir.path("mount");
    std::fs::create_dir(&point).unwrap();
    sh(&format!("mount --bind / {}", point.display()));
    assert_eq!(users_of(&point).unwrap(), []);
    assert_eq!(unmount(&point, PATIENCE, false), Ok(Unmounted::Clean));
}
