//! Images made of programs of this machine, with the libraries that they load, and of nothing else: no registry is
//! asked for anything.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::find;
use crate::support::{actor, ensign};

/// What the tests' shell scripts call.
const APPLETS: [&str; 8] = ["sh", "cat", "env", "kill", "nc", "sleep", "stty", "true"];

pub struct Image {
    pub(super) name: &'static str,
    root: TempDir,
    pub(super) changes: Vec<String>,
}

impl Image {
    fn new(name: &'static str) -> Image {
        let root = tempfile::tempdir().expect("a folder for the image");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("it is ours");
        Image { name, root, changes: vec!["ENV PATH=/bin".into()] }
    }

    /// Nothing but the init and the payload: no /etc, no shell, no libraries.
    pub fn scratch() -> Image {
        let image = Image::new("scratch");
        image.copy(&ensign(), Path::new("/ensign"));
        image.copy(&actor(), Path::new("/actor"));
        image
    }

    /// A shell and redis, server and client. Exposes the server's port.
    pub fn redis() -> Image {
        let mut image = Image::new("redis").shell();
        image.program("redis-server");
        image.program("redis-cli");
        image.changes.push("EXPOSE 6379".into());
        image.changes.push(r#"CMD ["redis-server", "--protected-mode", "no", "--save", ""]"#.into());
        image
    }

    /// A shell and etcd, server and client. Exposes the server's port.
    pub fn etcd() -> Image {
        let mut image = Image::new("etcd").shell();
        image.program("etcd");
        image.program("etcdctl");
        image.changes.push("EXPOSE 2379".into());
        image.changes.push("ENV ETCDCTL_API=3".into());
        let serve = r#"["etcd", "--data-dir", "/data", "--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--log-level", "error", "--logger", "zap"]"#;
        image.changes.push(format!("CMD {serve}"));
        image
    }

    fn shell(self) -> Image {
        self.program("busybox");
        for applet in APPLETS {
            symlink("busybox", self.root.path().join("bin").join(applet)).expect("a link");
        }
        self
    }

    /// A program and what the loader would load for it.
    fn program(&self, name: &str) {
        let program = find(name);
        for library in libraries(&program) {
            self.copy(&library, &library);
        }
        self.copy(&program, &Path::new("/bin").join(name));
    }

    fn copy(&self, from: &Path, to: &Path) {
        let to = self.root.path().join(to.strip_prefix("/").expect("places in an image are absolute"));
        fs::create_dir_all(to.parent().expect("not the root")).expect("a folder");
        fs::copy(from, &to).unwrap_or_else(|why| panic!("{from:?}: {why}"));
    }

    pub(super) fn pack(&self, tar: &Path) {
        let packed = Command::new("tar")
            .args(["--owner=0", "--group=0", "-C"])
            .arg(self.root.path())
            .arg("-cf")
            .arg(tar)
            .arg(".")
            .status();
        assert!(packed.expect("tar runs").success());
    }
}

/// None for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
