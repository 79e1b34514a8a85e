//! An authority of a test's own, and the certificates that it signs, made by `openssl` in a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    Now,
    Past,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let this = Self(tempfile::tempdir().expect("a temporary folder"));
        let folder = this.0.path();
        fs::create_dir(folder.join("new")).expect("a folder");
        fs::write(folder.join("index"), "").expect("a file");
        let text = "[ca]\ndefault_ca = this\n[this]\ndir = .\ndatabase = index\nnew_certs_dir = new\n\
                    certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\n\
                    rand_serial = yes\nunique_subject = no\n[any]\ncommonName = optional\norganizationName = optional\n[req]\n\
                    distinguished_name = dn\nx509_extensions = self\n[dn]\n[self]\n\
                    basicConstraints = critical,CA:TRUE\nsubjectKeyIdentifier = hash\n";
        fs::write(folder.join("conf"), text).expect("a file");
        this.openssl(
            "req -config conf -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
                      -subj /CN=authority -keyout ca.key -out ca.pem",
        );
        this
    }

    /// What clients are to trust.
    pub fn ca(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// One that is valid for `names` (`IP:127.0.0.1,DNS:localhost`), as a server and as a client. It has no
    /// CommonName.
    pub fn issue(&self, name: &str, names: &str, validity: Validity) -> Pair {
        self.issue_to(name, &format!("/O={name}"), names, validity)
    }

    pub fn issue_to(&self, name: &str, subject: &str, names: &str, validity: Validity) -> Pair {
        fs::write(self.0.path().join(format!("{name}.ext")), format!("subjectAltName = {names}\n"))
            .expect("a file");
        let dates = match validity {
            Validity::Now => "-days 30",
            Validity::Past => "-startdate 20200101000000Z -enddate 20200102000000Z",
        };
        self.openssl(&format!(
            "req -config conf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject} \
             -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "ca -config conf -batch -notext {dates} -extfile {name}.ext -in {name}.csr -out {name}.pem"
        ));
        let path = |ending: &str| self.0.path().join(format!("{name}.{ending}"));
        Pair { cert: path("pem"), key: path("key") }
    }

    fn openssl(&self, args: &str) {
        let made = Command::new("openssl").args(args.split_whitespace()).current_dir(self.0.path()).output();
        let made = made.expect("these tests need openssl");
        assert!(made.status.success(), "{args}: {}", String::from_utf8_lossy(&made.stderr));
    }
}

/// Puts another file in a file's place, as those who rotate secrets do: at once.
pub fn replace(path: &Path, with: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, with).expect("written");
    fs::rename(&new, path).expect("renamed");
}
