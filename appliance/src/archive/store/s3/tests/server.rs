//! A small S3 server that injects faults on request. HTTP/1.1, one thread per connection,
//! signatures are not checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The answer is a status and a code; the request is not executed.
    Answer(u16, &'static str),
    /// The request is executed; the answer is a status.
    DoneBut(u16),
    /// The request is executed, and the connection is cut without an answer.
    DoneAndCut,
    /// The request is not executed; the connection is cut before the body has been read.
    CutEarly,
    /// No answer as long as the client waits.
    Stall,
    /// Half of the answer's body, then the connection is cut.
    HalfBody,
    /// The answer's body with one wrong bit.
    WrongBytes,
    /// A range is answered with the whole object.
    NoRanges,
    /// Conditions on puts are ignored.
    NoConditions,
    /// A page of a list has the second half of its keys first, and reports more pages.
    Disorder,
    /// A page of a list is empty, and reports more pages.
    Endless,
}

#[derive(Default)]
struct Object {
    bytes: Vec<u8>,
    metadata: Vec<(String, String)>,
}

#[derive(Default)]
struct Upload {
    key: String,
    metadata: Vec<(String, String)>,
    parts: BTreeMap<usize, Vec<u8>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<u64, Upload>,
    uploads_made: u64,
    // Prefix of "METHOD target", the fault, and how many more times.
    faults: Vec<(String, Fault, usize)>,
    // The "METHOD target" of every request.
    requests: Vec<String>,
    streams: Vec<TcpStream>,
    stopped: bool,
}

/// Serves the bucket `bucket` until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                {
                    let mut state = shared.lock().unwrap();
                    if state.stopped {
                        break;
                    }
                    state.streams.push(stream.try_clone().unwrap());
                }
                let shared = Arc::clone(&shared);
                // A client that disconnects is not a failure of the server.
                connections.push(std::thread::spawn(move || drop(serve(&stream, &shared))));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Server { address, state, thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` requests whose "METHOD target" begins with `request` fail.
    pub(super) fn fail(&self, request: &str, fault: Fault, times: usize) {
        self.state().faults.push((request.to_owned(), fault, times));
    }

    pub(super) fn heal(&self) {
        self.state().faults.clear();
    }

    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(super) fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) {
        let object = Object { bytes: bytes.to_vec(), metadata: Vec::new() };
        self.state().objects.insert(key.to_owned(), object);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = self.state();
            state.stopped = true;
            for stream in &state.streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn respond(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response { status, headers: Vec::new(), body: body.into() }
}

fn refuse(status: u16, code: &str) -> Response {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    respond(status, text)
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn serve(stream: &TcpStream, shared: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let fault = {
            let mut state = shared.lock().unwrap();
            let request = format!("{method} {target}");
            let found =
                state.faults.iter_mut().find(|(begin, _, times)| *times > 0 && request.starts_with(begin));
            let fault = found.map(|(_, fault, times)| {
                *times -= 1;
                *fault
            });
            state.requests.push(request);
            fault
        };
        if fault == Some(Fault::CutEarly) {
            return stream.shutdown(Shutdown::Both);
        }
        let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        reader.read_exact(&mut body)?;
        if fault == Some(Fault::Stall) {
            // Until the client gives up.
            let _ = reader.read(&mut [0]);
            return Ok(());
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request {
            method: method.to_owned(),
            key: unescape(path.trim_start_matches('/')),
            query: query
                .split('&')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (name.to_owned(), unescape(value)))
                .collect(),
            headers,
            body,
        };
        let response = match fault {
            Some(Fault::Answer(status, code)) => refuse(status, code),
            Some(Fault::DoneBut(status)) => {
                answer(&request, &mut shared.lock().unwrap(), fault);
                refuse(status, "InternalError")
            }
            _ => answer(&request, &mut shared.lock().unwrap(), fault),
        };
        let Response { status, headers, mut body } = response;
        if fault == Some(Fault::DoneAndCut) {
            return stream.shutdown(Shutdown::Both);
        }
        let mut head = format!("HTTP/1.1 {status} x\r\n");
        for (name, value) in &headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !headers.iter().any(|(name, _)| name == "content-length") {
            write!(head, "content-length: {}\r\n", body.len()).unwrap();
        }
        head.push_str("\r\n");
        writer.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            continue;
        }
        if fault == Some(Fault::HalfBody) {
            writer.write_all(&body[..body.len() / 2])?;
            return stream.shutdown(Shutdown::Both);
        }
        if fault == Some(Fault::WrongBytes) {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        writer.write_all(&body)?;
    }
}

fn answer(request: &Request, state: &mut State, fault: Option<Fault>) -> Response {
    let (bucket, key) = request.key.split_once('/').unwrap_or((&request.key, ""));
    if bucket != "bucket" {
        return refuse(404, "NoSuchBucket");
    }
    let asked = |name: &str| request.query.get(name).map(String::as_str);
    let upload_id = asked("uploadId").map(|id| id.parse::<u64>().unwrap());
    let metadata = || {
        let ours = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
        ours.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    let blocked = request.headers.contains_key("if-none-match")
        && fault != Some(Fault::NoConditions)
        && state.objects.contains_key(key);
    let etag = |bytes: &[u8]| format!("\"{}\"", blake3::hash(bytes).to_hex());
    match (request.method.as_str(), upload_id) {
        ("GET", None) if key.is_empty() && asked("uploads").is_some() => list_uploads(state, asked("prefix")),
        ("GET", None) if key.is_empty() => list(request, state, fault),
        ("GET" | "HEAD", None) => get(request, state, key, fault),
        ("PUT", None) if blocked => refuse(412, "PreconditionFailed"),
        ("PUT", None) => {
            let tag = etag(&request.body);
            let object = Object { bytes: request.body.clone(), metadata: metadata() };
            state.objects.insert(key.to_owned(), object);
            Response { headers: vec![("etag".into(), tag)], ..respond(200, "") }
        }
        ("DELETE", None) => {
            state.objects.remove(key);
            respond(204, "")
        }
        ("POST", None) => {
            state.uploads_made += 1;
            let upload = Upload { key: key.to_owned(), metadata: metadata(), parts: BTreeMap::new() };
            state.uploads.insert(state.uploads_made, upload);
            let id = state.uploads_made;
            let text = format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            respond(200, text)
        }
        (_, Some(id)) if !state.uploads.contains_key(&id) => refuse(404, "NoSuchUpload"),
        ("PUT", Some(id)) => {
            let part = asked("partNumber").unwrap().parse().unwrap();
            let tag = etag(&request.body);
            state.uploads.get_mut(&id).unwrap().parts.insert(part, request.body.clone());
            Response { headers: vec![("etag".into(), tag)], ..respond(200, "") }
        }
        ("DELETE", Some(id)) => {
            state.uploads.remove(&id);
            respond(204, "")
        }
        // A completion sends status 200 before it knows the result.
        ("POST", Some(_)) if blocked => refuse(200, "PreconditionFailed"),
        ("POST", Some(id)) => {
            let upload = state.uploads.remove(&id).unwrap();
            let bytes: Vec<u8> = upload.parts.into_values().flatten().collect();
            let text = format!(
                "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
                etag(&bytes)
            );
            state.objects.insert(upload.key, Object { bytes, metadata: upload.metadata });
            respond(200, text)
        }
        _ => refuse(501, "NotImplemented"),
    }
}

fn get(request: &Request, state: &State, key: &str, fault: Option<Fault>) -> Response {
    let Some(Object { bytes, metadata }) = state.objects.get(key) else { return refuse(404, "NoSuchKey") };
    let etag = format!("\"{}\"", blake3::hash(bytes).to_hex());
    if request.headers.get("if-match").is_some_and(|wanted| *wanted != etag) {
        return refuse(412, "PreconditionFailed");
    }
    let mut headers = metadata.clone();
    headers.push(("etag".into(), etag));
    if request.method == "HEAD" {
        headers.push(("content-length".into(), bytes.len().to_string()));
        return Response { headers, ..respond(200, "") };
    }
    let range = request.headers.get("range").filter(|_| fault != Some(Fault::NoRanges));
    let Some(range) = range else { return Response { headers, ..respond(200, bytes.clone()) } };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    if first >= bytes.len() {
        return refuse(416, "InvalidRange");
    }
    let last = last.parse::<usize>().unwrap().min(bytes.len() - 1);
    headers.push(("content-range".into(), format!("bytes {first}-{last}/{}", bytes.len())));
    Response { headers, ..respond(206, &bytes[first..=last]) }
}

fn list(request: &Request, state: &State, fault: Option<Fault>) -> Response {
    let asked = |name: &str| request.query.get(name).map_or("", String::as_str);
    let after = asked("start-after").max(asked("continuation-token"));
    let limit = asked("max-keys").parse().unwrap_or(1000);
    let mut found: Vec<(&String, usize)> = state
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(asked("prefix")) && key.as_str() > after)
        .map(|(key, object)| (key, object.bytes.len()))
        .collect();
    let mut more = found.len() > limit;
    match fault {
        Some(Fault::Disorder) => {
            found.drain(..found.len() / 2);
            more = true;
        }
        Some(Fault::Endless) => {
            found.clear();
            more = true;
        }
        _ => found.truncate(limit),
    }
    let mut xml = String::from("<ListBucketResult>");
    for (key, len) in &found {
        let time = "2020-01-01T00:00:00.000Z";
        write!(
            xml,
            "<Contents><Key>{key}</Key><Size>{len}</Size><LastModified>{time}</LastModified></Contents>"
        )
        .unwrap();
    }
    if more {
        // In disorder, the next page begins from the first key again.
        let next = if fault.is_some() { "" } else { found.last().map_or("", |(key, _)| key) };
        write!(xml, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
    }
    respond(200, xml + "</ListBucketResult>")
}

fn list_uploads(state: &State, prefix: Option<&str>) -> Response {
    let mut xml = String::from("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
    for (id, upload) in &state.uploads {
        if upload.key.starts_with(prefix.unwrap_or("")) {
            write!(xml, "<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", upload.key).unwrap();
        }
    }
    respond(200, xml + "</ListMultipartUploadsResult>")
}
