//! A proxy between an appliance and its object store: it loses answers, makes others up, and
//! records the requests.
//!
//! Requests pass through unchanged, so that their signatures stay valid. Each has its own
//! connection to the server, which ends with the answer. A rule selects its requests by the start
//! of `METHOD TARGET`, and by a text that their headers contain or do not contain. The first rule
//! that matches and is not used up applies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// None: the request passes through. It uses up this rule, so that later rules apply to later
    /// requests.
    None,
    /// The request does not reach the server; the answer has this status and this body.
    Answer(u16, String),
    /// The server executes the request, and the connection is cut without an answer.
    LoseAnswer,
    /// The server executes the request, and the answer has this status and this body instead.
    DoneBut(u16, String),
    /// The list starts with this many empty pages before its real one; each of them reports that
    /// more follow.
    EmptyPages(usize),
}

/// A page of a list that reports that more follow: its `<Contents>`, and the token for the next
/// one.
pub fn truncated_page(contents: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>true</IsTruncated>{contents}{}</ListBucketResult>",
        token.unwrap_or_default()
    )
}

/// What a rule requires of a request's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// They contain this text.
    With(String),
    /// They do not contain it.
    Without(String),
}

/// The body of an error answer, with a code.
pub fn error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    )
}

#[derive(Debug)]
struct Rule {
    begin: String,
    header: Option<Header>,
    fault: Fault,
    times: usize,
}

impl Rule {
    fn fits(&self, request: &str, head: &str) -> bool {
        let is_so = match &self.header {
            None => true,
            Some(Header::With(text)) => head.contains(text.as_str()),
            Some(Header::Without(text)) => !head.contains(text.as_str()),
        };
        self.times > 0 && request.starts_with(&self.begin) && is_so
    }
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<String>,
    // A list's real page, and how many empty pages come before it.
    held: Option<(usize, Vec<u8>)>,
    streams: Vec<TcpStream>,
    stopped: bool,
}

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts a proxy in front of the server at `url`, which is `http://HOST:PORT`.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(url: &str) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming().filter_map(Result::ok) {
                {
                    let mut state = lock(&shared);
                    if state.stopped {
                        break;
                    }
                    state.streams.extend(stream.try_clone());
                }
                let (shared, server) = (Arc::clone(&shared), server.clone());
                // A client that disconnects is not the proxy's failure.
                connections.push(std::thread::spawn(move || drop(serve(&stream, &server, &shared))));
            }
            for connection in connections {
                // The test sees a failure of the connection in the answers that it gets.
                let _ = connection.join();
            }
        });
        Proxy { address, state, thread: Some(thread) }
    }

    /// The address that it listens on: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Injects a fault into the next `times` requests whose `METHOD TARGET` begins with `request`.
    pub fn inject(&self, request: &str, fault: Fault, times: usize) {
        self.add(request, None, fault, times);
    }

    /// The same, only for requests whose headers match.
    pub fn inject_when(&self, request: &str, header: Header, fault: Fault, times: usize) {
        self.add(request, Some(header), fault, times);
    }

    fn add(&self, request: &str, header: Option<Header>, fault: Fault, times: usize) {
        lock(&self.state).rules.push(Rule { begin: request.to_owned(), header, fault, times });
    }

    /// Removes all rules.
    pub fn heal(&self) {
        lock(&self.state).rules.clear();
    }

    /// `METHOD TARGET` of every request since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).requests)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.stopped = true;
            for stream in &state.streams {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes up the listener.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers one request of a connection, then ends the connection.
fn serve(stream: &TcpStream, server: &str, shared: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut len = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().unwrap_or(0);
        }
        let is_end = line.trim().is_empty();
        if is_end {
            // Makes the server end the connection after its answer.
            head.push_str("connection: close\r\n");
        }
        head.push_str(&line);
        if is_end {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let request = head.lines().next().unwrap_or("").rsplit_once(' ').map_or("", |(request, _)| request);
    let fault = next_fault(request, &head, shared);
    let forward = || forward(server, &head, &body);
    let answer = match fault {
        Some(Fault::Answer(status, body)) => made_up(status, &body),
        Some(Fault::DoneBut(status, body)) => {
            forward()?;
            made_up(status, &body)
        }
        Some(Fault::LoseAnswer) => {
            forward()?;
            return stream.shutdown(Shutdown::Both);
        }
        Some(Fault::EmptyPages(pages)) => {
            let page = forward()?;
            lock(shared).held = Some((pages, page));
            next_page(shared)
        }
        None | Some(Fault::None) if request.contains("continuation-token=empty") => next_page(shared),
        None | Some(Fault::None) => forward()?,
    };
    let mut writer = stream;
    writer.write_all(&answer)?;
    stream.shutdown(Shutdown::Both)
}

fn next_fault(request: &str, head: &str, shared: &Mutex<State>) -> Option<Fault> {
    let mut state = lock(shared);
    state.requests.push(request.to_owned());
    let rule = state.rules.iter_mut().find(|rule| rule.fits(request, head))?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn forward(server: &str, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn made_up(status: u16, body: &str) -> Vec<u8> {
    let len = body.len();
    let head = format!("HTTP/1.1 {status} injected\r\ncontent-type: application/xml\r\netag: \"0\"\r\n");
    format!("{head}content-length: {len}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

/// An empty page of a list, or the real page that was held back.
fn next_page(shared: &Mutex<State>) -> Vec<u8> {
    let mut state = lock(shared);
    match state.held.take() {
        Some((0, page)) => page,
        Some((left, page)) => {
            state.held = Some((left - 1, page));
            made_up(200, &truncated_page("", Some(&format!("empty{left}"))))
        }
        None => made_up(400, &error("InvalidArgument")),
    }
}
