//! Programs in Go that are made of etcd's own packages; their sources stand beside this file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Two tests of one process do not write one program at the same time.
static BUILDING: Mutex<()> = Mutex::new(());

/// Builds a program, or says why not: without Go, or without a way to its modules.
///
/// # Panics
/// The program does not compile.
pub(crate) fn go_program(name: &str) -> Option<PathBuf> {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", env!("CARGO_CRATE_NAME")));
    let mut command = Command::new("go");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go"));
    command.arg("build").arg("-o").arg(&path).arg(format!("./{name}"));
    let building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let built = command.output();
    drop(building);
    match built {
        Err(error) => println!("skipped: go cannot be run: {error}"),
        Ok(output) if output.status.success() => return Some(path),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_offline = ["dial tcp", "proxy", "lookup", "requires go"];
            assert!(is_offline.iter().any(|sign| errors.contains(sign)), "{errors}");
            println!("skipped: modules cannot be loaded: {errors}");
        }
    }
    None
}
