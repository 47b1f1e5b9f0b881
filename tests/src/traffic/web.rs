//! Unchanged web programs: python's `http.server`, and curl.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Host, wait};

const START_LIMIT: Duration = Duration::from_secs(15);
const FETCH_LIMIT: Duration = Duration::from_secs(20);

/// `python3 -m http.server` on 0.0.0.0. Ends when dropped.
pub struct WebServer {
    child: Child,
}

impl WebServer {
    /// Serves one page with `text` on every address of `host`, and returns when it answers.
    ///
    /// # Errors
    /// It does not start to answer.
    pub fn start(host: &Host, port: u16, text: &str) -> Result<Self> {
        let folder = host.state.with_file_name("www");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("index.html"), text)?;
        let child = host
            .command("python3", &["-m", "http.server", "--bind", "0.0.0.0", "--directory"])
            .arg(&folder)
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("python3 does not start")?;
        let server = Self { child };
        let own = format!("http://127.0.0.1:{port}/");
        wait::until("the web server", START_LIMIT, || Ok(fetch(host, &own).ok()))?;
        Ok(server)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fetches a page with curl on `host`.
///
/// # Errors
/// curl's own sentence.
pub fn fetch(host: &Host, url: &str) -> Result<String> {
    let answer = host.run("curl", &["-sSf", "--max-time", "15", url], FETCH_LIMIT)?;
    Ok(answer.success()?.stdout)
}
