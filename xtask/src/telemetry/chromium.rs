//! One page in a headless Chromium, spoken to over its debugging pipe: what it logs, what it asks for, what it shows.
//! <https://chromedevtools.github.io/devtools-protocol/>

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Program;

/// Messages end with this.
const END: u8 = 0;

/// A browser with one page, ended with the value.
pub(super) struct Page {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    next_id: u64,
    /// Addresses that the page asked for.
    pub(super) asked: Vec<String>,
    /// Lines of the console, errors of the network and exceptions.
    pub(super) logged: Vec<String>,
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    /// Starts the browser with a new profile, which is left in `profile`.
    pub(super) fn open(program: &Program, profile: &Path) -> Result<Self> {
        if profile.exists() {
            std::fs::remove_dir_all(profile)?;
        }
        // The pipe is at the descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2"]).arg(&program.path);
        program.set_libraries(&mut command);
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
        command.args(["--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let log = std::fs::File::create(profile.with_extension("log"))?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let (to, from) = (child.stdin.take().context("a pipe")?, child.stdout.take().context("a pipe")?);
        let (asked, logged) = (Vec::new(), Vec::new());
        let mut page = Self { child, to, from: BufReader::new(from), session: None, next_id: 0, asked, logged };
        let made = page.send("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = page.send("Target.attachToTarget", &attach)?;
        page.session = Some(attached["sessionId"].as_str().context("Chromium gives no session")?.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.send(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(page)
    }

    /// Gives a command to the page, and waits for what comes of it.
    pub(super) fn send(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.next_id += 1;
        let mut message = json!({ "id": self.next_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(END);
        self.to.write_all(&bytes)?;
        loop {
            let mut answer = self.read().with_context(|| format!("Chromium does not answer {method}"))?;
            if answer["id"] != self.next_id {
                self.note(&answer);
                continue;
            }
            if !answer["error"].is_null() {
                bail!("{method}: {}", answer["error"]);
            }
            return Ok(answer["result"].take());
        }
    }

    /// The value of an expression of JavaScript in the page.
    pub(super) fn value_of(&mut self, expression: &str) -> Result<Value> {
        let mut found = self.send("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }))?;
        Ok(found["result"]["value"].take())
    }

    fn read(&mut self) -> Result<Value> {
        let mut bytes = Vec::new();
        self.from.by_ref().read_until(END, &mut bytes)?;
        bytes.pop();
        serde_json::from_slice(&bytes).context("no message")
    }

    /// Keeps what an event says.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.asked.extend(parameters["request"]["url"].as_str().map(str::to_owned));
            }
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded") => {
                self.logged.push(parameters.to_string());
            }
            _ => {}
        }
    }
}
