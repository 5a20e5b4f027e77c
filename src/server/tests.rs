//! The server over real sockets, in front of an application that does next to nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

const ACCOUNT: &str = "123456789012";
/// Long enough for anything that should happen, so that a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// Each operation behaves in its own way.
#[derive(Default)]
struct Fake {
    /// `StartReplicationTask` says here that it has begun …
    begun: Notify,
    /// … waits for this …
    go_on: Notify,
    /// … and counts here that it has ended.
    ended: AtomicUsize,
    calls: AtomicUsize,
    resets: AtomicUsize,
}

#[async_trait]
impl Application for Fake {
    fn carries_out(&self, _: Operation) -> bool {
        true
    }

    async fn call(&self, call: Call) -> Result<String, Fault> {
        self.calls.fetch_add(1, SeqCst);
        match call.operation {
            Operation::DescribeAccountAttributes => {
                let scope = format!("{} {}", call.scope.account, call.scope.region);
                Ok(json!({ "UniqueAccountIdentifier": scope }).to_string())
            }
            Operation::CreateEndpoint => Err(Fault::resource_already_exists("in use", "arn:aws:dms:1")),
            Operation::DescribeEvents => panic!("a handler panics"),
            Operation::DescribeCertificates => Ok(json!({ "Zertifikate": [] }).to_string()),
            Operation::DescribeEndpoints => Err(Fault::s3_access_denied("")),
            Operation::StartReplicationTask => {
                self.begun.notify_one();
                self.go_on.notified().await;
                self.ended.fetch_add(1, SeqCst);
                self.begun.notify_one();
                Ok("{}".to_owned())
            }
            operation => Err(Fault::not_implemented(operation)),
        }
    }

    async fn health(&self) -> Value {
        json!({ "status": "ok" })
    }

    async fn metrics(&self) -> String {
        "CDCLatencySource 0\n".to_owned()
    }

    async fn reset(&self) -> Result<(), Fault> {
        self.resets.fetch_add(1, SeqCst);
        Ok(())
    }
}

struct Server {
    address: SocketAddr,
    fake: Arc<Fake>,
    stop: oneshot::Sender<()>,
    stopped: JoinHandle<()>,
}

async fn start(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake::default());
    let scope = Scope { account: ACCOUNT.to_owned(), region: "us-east-1".to_owned() };
    let (stop, stopping) = oneshot::channel();
    let application = Arc::clone(&fake) as Arc<dyn Application>;
    let stopped = tokio::spawn(serve(listener, application, Config { scope, limits }, async {
        let _ = stopping.await;
    }));
    Server { address, fake, stop, stopped }
}

struct Client(TcpStream);

/// An answer, its head in lower case.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Server {
    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    async fn call(&self, operation: &str, body: &str) -> Answer {
        self.connect().await.call(operation, body).await
    }

    async fn stop(self) -> Arc<Fake> {
        let _ = self.stop.send(());
        patiently(self.stopped).await.unwrap();
        self.fake
    }
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn call(&mut self, operation: &str, body: &str) -> Answer {
        self.send(&request(operation, body)).await;
        self.receive().await
    }

    async fn receive(&mut self) -> Answer {
        patiently(async {
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                text.push(self.0.read_u8().await.unwrap());
            }
            let head = String::from_utf8(text).unwrap().to_lowercase();
            let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.lines().next().unwrap());
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head, body: String::from_utf8(body).unwrap() }
        })
        .await
    }

    /// Waits until the server closes the connection; what it still sends.
    async fn closed(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = patiently(self.0.read_to_end(&mut rest)).await;
        rest
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["__type"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn assert_fault(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        assert!(self.json()["message"].is_string(), "{self:?}");
    }
}

fn head(operation: &str, more: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonDMSv20160101.{operation}\r\n{more}")
}

fn request(operation: &str, body: &str) -> String {
    head(operation, &format!("Content-Length: {}\r\n\r\n{body}", body.len()))
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

#[tokio::test]
async fn answers_an_operation_as_aws_json() {
    let server = start(Limits::default()).await;
    let mut client = server.connect().await;
    let answer = client.call("DescribeAccountAttributes", "{}").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "UniqueAccountIdentifier": "123456789012 us-east-1" }));
    assert!(answer.head.contains("content-type: application/x-amz-json-1.1\r\n"), "{answer:?}");
    assert!(answer.head.contains("\r\ndate: "), "{answer:?}");
    let request_id = |answer: &Answer| {
        let id = answer.head.split("x-amzn-requestid: ").nth(1).unwrap().lines().next().unwrap();
        Uuid::parse_str(id).unwrap()
    };
    assert_eq!(request_id(&answer).get_version_num(), 4);
    let again = client.call("DescribeAccountAttributes", "{}").await;
    assert_ne!(request_id(&again), request_id(&answer));
}

#[tokio::test]
async fn account_and_region_come_from_the_credential() {
    let server = start(Limits::default()).await;
    let authorization = "Authorization: AWS4-HMAC-SHA256 Credential=000000000042/20260102/eu-west-3/dms/aws4_request, \
                         SignedHeaders=host, Signature=0\r\nContent-Length: 0\r\n\r\n";
    let mut client = server.connect().await;
    client.send(&head("DescribeAccountAttributes", authorization)).await;
    assert_eq!(client.receive().await.json()["UniqueAccountIdentifier"], "000000000042 eu-west-3");
}

#[tokio::test]
async fn an_empty_body_is_an_empty_object() {
    let server = start(Limits::default()).await;
    assert_eq!(server.call("DescribeAccountAttributes", "").await.status, 200);
}

#[tokio::test]
async fn a_fault_has_its_status_code_and_members() {
    let server = start(Limits::default()).await;
    let body = json!({ "EndpointIdentifier": "e", "EndpointType": "source", "EngineName": "mysql" }).to_string();
    let answer = server.call("CreateEndpoint", &body).await;
    answer.assert_fault(400, "ResourceAlreadyExistsFault");
    assert_eq!(answer.json()["resourceArn"], "arn:aws:dms:1");
    assert!(answer.head.contains("content-type: application/x-amz-json-1.1\r\n"), "{answer:?}");
    let answer = server.call("DescribeDataMigrations", "{}").await;
    answer.assert_fault(501, "NotImplementedException");
    assert!(answer.body.contains("DescribeDataMigrations"));
}

#[tokio::test]
async fn a_request_outside_the_model_never_reaches_the_application() {
    let server = start(Limits::default()).await;
    server.call("CreateEndpoint", "{}").await.assert_fault(400, "InvalidParameterValueException");
    server.call("CreateEndpoint", "{\"Port\": \"1\"}").await.assert_fault(400, "SerializationException");
    for garbage in ["{", "[]", "nul", "{\"a\":1}x", "\u{0}", &"[".repeat(100_000)] {
        server.call("DescribeEndpoints", garbage).await.assert_fault(400, "SerializationException");
    }
    assert_eq!(server.fake.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn an_unknown_target_is_refused() {
    let server = start(Limits::default()).await;
    for name in ["DropEverything", "describeendpoints", ""] {
        server.call(name, "{}").await.assert_fault(400, "UnknownOperationException");
    }
    for target in ["", "X-Amz-Target: DynamoDB_20120810.ListTables\r\n", "X-Amz-Target: \u{fc}\r\n"] {
        let mut client = server.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: x\r\n{target}Content-Length: 2\r\n\r\n{{}}")).await;
        client.receive().await.assert_fault(400, "UnknownOperationException");
    }
}

#[tokio::test]
async fn an_answer_outside_the_model_is_an_internal_failure_in_debug_builds() {
    let server = start(Limits::default()).await;
    for operation in ["DescribeCertificates", "DescribeEndpoints"] {
        let answer = server.call(operation, "{}").await;
        answer.assert_fault(500, "InternalFailure");
        assert!(!answer.body.contains("Zertifikate"));
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_failure_and_the_connection_goes_on() {
    let server = start(Limits::default()).await;
    let mut client = server.connect().await;
    client.call("DescribeEvents", "{}").await.assert_fault(500, "InternalFailure");
    assert_eq!(client.call("DescribeAccountAttributes", "{}").await.status, 200);
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    let server = start(Limits { body_bytes_max: 1000, ..Limits::default() }).await;
    let mut client = server.connect().await;
    client.send(&head("CreateEndpoint", "Content-Length: 1001\r\n\r\n")).await;
    let answer = client.receive().await;
    answer.assert_fault(413, "RequestEntityTooLargeException");
    assert!(answer.head.contains("connection: close\r\n"), "{answer:?}");
    assert_eq!(client.closed().await, b"");
    let mut client = server.connect().await;
    client.send(&head("CreateEndpoint", "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")).await;
    client.receive().await.assert_fault(413, "RequestEntityTooLargeException");
}

#[tokio::test]
async fn a_client_that_sends_it_all_first_still_gets_the_refusal() {
    let server = start(Limits { body_bytes_max: 1000, ..Limits::default() }).await;
    let mut client = server.connect().await;
    client.send(&request("CreateEndpoint", &" ".repeat(8 << 20))).await;
    client.receive().await.assert_fault(413, "RequestEntityTooLargeException");
}

#[tokio::test]
async fn a_chunked_body_is_refused_at_the_limit() {
    let server = start(Limits { body_bytes_max: 1000, ..Limits::default() }).await;
    let chunk = format!("{:x}\r\n{}\r\n", 600, " ".repeat(600));
    let mut client = server.connect().await;
    client.send(&head("CreateEndpoint", "Transfer-Encoding: chunked\r\n\r\n")).await;
    client.send(&chunk).await;
    client.send(&chunk).await;
    client.receive().await.assert_fault(413, "RequestEntityTooLargeException");
    assert_eq!(client.closed().await, b"");

    let mut client = server.connect().await;
    client.send(&head("DescribeAccountAttributes", "Transfer-Encoding: chunked\r\n\r\n")).await;
    client.send("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n").await;
    assert_eq!(client.receive().await.status, 200);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let server = start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(&head("DescribeAccountAttributes", "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")).await;
    assert_eq!(client.receive().await.status, 100);
    client.send("{}").await;
    assert_eq!(client.receive().await.status, 200);
}

#[tokio::test]
async fn bodies_together_are_limited() {
    let server = start(Limits { bodies_bytes_max: 100, ..Limits::default() }).await;
    let mut hog = server.connect().await;
    let mut start = request("StartReplicationTask", "");
    let body =
        json!({ "ReplicationTaskArn": "a", "StartReplicationTaskType": "start-replication", "X": " ".repeat(9) });
    start = start.replace("Content-Length: 0", &format!("Content-Length: {}", body.to_string().len()));
    hog.send(&(start + &body.to_string())).await;
    patiently(server.fake.begun.notified()).await;

    let long = json!({ "Marker": " ".repeat(50) }).to_string();
    server.call("DescribeAccountAttributes", &long).await.assert_fault(503, "ServiceUnavailable");
    server.fake.go_on.notify_one();
    assert_eq!(hog.receive().await.status, 200);
    assert_eq!(server.call("DescribeAccountAttributes", &long).await.status, 200);
}

#[tokio::test]
async fn calls_at_once_are_limited() {
    let server = start(Limits { calls_max: 1, ..Limits::default() }).await;
    let mut first = server.connect().await;
    first.send(&request("StartReplicationTask", START_TASK)).await;
    patiently(server.fake.begun.notified()).await;
    let mut second = server.connect().await;
    second.call("DescribeAccountAttributes", "{}").await.assert_fault(503, "ServiceUnavailable");
    server.fake.go_on.notify_one();
    assert_eq!(first.receive().await.status, 200);
    assert_eq!(second.call("DescribeAccountAttributes", "{}").await.status, 200);
}

const START_TASK: &str = r#"{"ReplicationTaskArn":"a","StartReplicationTaskType":"start-replication"}"#;

#[tokio::test]
async fn connections_at_once_are_limited() {
    let server = start(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = server.connect().await;
    assert_eq!(first.call("DescribeAccountAttributes", "{}").await.status, 200);
    let mut second = server.connect().await;
    second.send(&request("DescribeAccountAttributes", "{}")).await;
    assert_eq!(first.call("DescribeAccountAttributes", "{}").await.status, 200);
    assert_eq!(server.fake.calls.load(SeqCst), 2);
    drop(first);
    assert_eq!(second.receive().await.status, 200);
}

#[test]
fn connections_leave_files_for_everything_else() {
    let fitted = Limits { connections_max: usize::MAX, ..Limits::default() }.fitted_to_open_files();
    let files = getrlimit(Resource::Nofile).current.unwrap() as usize;
    assert!(fitted.connections_max < files && fitted.connections_max >= files / 2, "{fitted:?}");
    let few = Limits { connections_max: 10, ..Limits::default() }.fitted_to_open_files();
    assert_eq!(few.connections_max, 10);
}

fn hasty() -> Limits {
    Limits { head_timeout: Duration::from_millis(20), body_timeout: Duration::from_millis(20), ..Limits::default() }
}

#[tokio::test]
async fn a_head_that_does_not_end_closes_the_connection() {
    let server = start(hasty()).await;
    let mut client = server.connect().await;
    client.send("POST / HTTP/1.1\r\nHost:").await;
    assert_eq!(client.closed().await, b"");
}

#[tokio::test]
async fn a_head_that_drips_closes_the_connection() {
    let server = start(hasty()).await;
    let (mut from_server, mut to_server) = server.connect().await.0.into_split();
    let drip = async {
        to_server.write_all(b"POST / HTTP/1.1\r\nX: ").await?;
        let mut drops = tokio::time::interval(Duration::from_millis(1));
        loop {
            drops.tick().await;
            to_server.write_all(b"x").await?;
        }
    };
    let closed = async {
        let _ = from_server.read_to_end(&mut Vec::new()).await;
    };
    patiently(async {
        tokio::select! {
            () = closed => {}
            error = drip => { let _: io::Result<()> = error; }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_with_a_timeout() {
    let server = start(hasty()).await;
    let mut client = server.connect().await;
    client.send(&head("CreateEndpoint", "Content-Length: 10\r\n\r\n{")).await;
    client.receive().await.assert_fault(408, "RequestTimeoutException");
    assert_eq!(client.closed().await, b"");
}

#[tokio::test]
async fn a_call_may_take_longer_than_any_timeout_of_the_connection() {
    let server = start(hasty()).await;
    let mut client = server.connect().await;
    client.send(&request("StartReplicationTask", START_TASK)).await;
    patiently(server.fake.begun.notified()).await;
    // A dripping head on another connection is closed after two timeouts at least.
    let mut other = server.connect().await;
    other.send("POST / HTTP/1.1\r\n").await;
    other.closed().await;
    server.fake.go_on.notify_one();
    assert_eq!(client.receive().await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_kept_past_the_head_timeout_and_serves_again() {
    let server = start(hasty()).await;
    let mut idle = server.connect().await;
    for _ in 0..3 {
        assert_eq!(idle.call("DescribeAccountAttributes", "{}").await.status, 200);
        for _ in 0..2 {
            // Closed after as long as it takes to lay the idle connection to rest, or longer.
            let mut clock = server.connect().await;
            clock.send("POST / HTTP/1.1\r\n").await;
            clock.closed().await;
        }
    }
    // Two requests at once, the second in the same packet.
    let two = request("DescribeAccountAttributes", "{}").repeat(2);
    idle.send(&two).await;
    assert_eq!(idle.receive().await.status, 200);
    assert_eq!(idle.receive().await.status, 200);
}

#[tokio::test]
async fn a_connection_idle_for_too_long_is_closed() {
    let server = start(Limits { idle_timeout: Duration::from_millis(20), ..hasty() }).await;
    let mut used = server.connect().await;
    assert_eq!(used.call("DescribeAccountAttributes", "{}").await.status, 200);
    let unused = server.connect().await;
    assert_eq!(used.closed().await, b"");
    assert_eq!(unused.closed().await, b"");
}

#[tokio::test]
async fn a_call_runs_to_its_end_when_its_client_has_gone() {
    let server = start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(&request("StartReplicationTask", START_TASK)).await;
    patiently(server.fake.begun.notified()).await;
    drop(client);
    // The server has seen that connection end once it has served another one after it.
    assert_eq!(server.call("DescribeAccountAttributes", "{}").await.status, 200);
    server.fake.go_on.notify_one();
    patiently(server.fake.begun.notified()).await;
    assert_eq!(server.fake.ended.load(SeqCst), 1);
}

#[tokio::test]
async fn stopping_lets_calls_under_way_end() {
    let server = start(Limits::default()).await;
    let idle = server.connect().await;
    let mut used = server.connect().await;
    assert_eq!(used.call("DescribeAccountAttributes", "{}").await.status, 200);
    let mut client = server.connect().await;
    client.send(&request("StartReplicationTask", START_TASK)).await;
    patiently(server.fake.begun.notified()).await;

    let (address, fake) = (server.address, Arc::clone(&server.fake));
    let stopped = tokio::spawn(server.stop());
    // Once idle connections are closed the server has stopped to accept.
    assert_eq!(idle.closed().await, b"");
    assert_eq!(used.closed().await, b"");
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!stopped.is_finished());
    fake.go_on.notify_one();
    let answer = client.receive().await;
    assert_eq!(answer.status, 200);
    assert_eq!(client.closed().await, b"");
    assert_eq!(patiently(stopped).await.unwrap().ended.load(SeqCst), 1);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let server = start(Limits { shutdown_timeout: Duration::from_millis(20), ..Limits::default() }).await;
    let mut client = server.connect().await;
    client.send(&request("StartReplicationTask", START_TASK)).await;
    patiently(server.fake.begun.notified()).await;
    assert_eq!(server.stop().await.ended.load(SeqCst), 0);
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_closed() {
    let server = start(hasty()).await;
    let (mut from_server, mut to_server) = server.connect().await.0.into_split();
    let requests = request("DescribeAccountAttributes", "{}").repeat(100);
    // Until both sides' buffers are full the server goes on; then it must give up.
    let error = patiently(async { while to_server.write_all(requests.as_bytes()).await.is_ok() {} });
    error.await;
    let _ = from_server.read_to_end(&mut Vec::new()).await;
}

async fn ask(server: &Server, request_line: &str, headers: &str) -> Answer {
    let mut client = server.connect().await;
    client.send(&format!("{request_line} HTTP/1.1\r\nHost: localhost:4580\r\n{headers}\r\n")).await;
    client.receive().await
}

#[tokio::test]
async fn health_and_reset() {
    let server = start(Limits::default()).await;
    let answer = ask(&server, "GET /_dms-local/health", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "ok" })));
    assert!(answer.head.contains("content-type: application/json\r\n"), "{answer:?}");
    let answer = ask(&server, "GET /_dms-local/metrics", "").await;
    assert!(answer.status == 200 && answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    let answer = ask(&server, "POST /_dms-local/reset", "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let same_origin = "Origin: http://localhost:4580\r\nContent-Length: 0\r\n";
    assert_eq!(ask(&server, "POST /_dms-local/reset", same_origin).await.status, 200);
    assert_eq!(server.fake.resets.load(SeqCst), 2);
}

#[tokio::test]
async fn a_web_page_of_another_origin_cannot_reset() {
    let server = start(Limits::default()).await;
    for origin in ["https://example.com", "http://localhost", "null", "http://localhost:4580.example.com"] {
        let answer = ask(&server, "POST /_dms-local/reset", &format!("Origin: {origin}\r\n")).await;
        answer.assert_fault(400, "AccessDeniedFault");
    }
    assert_eq!(server.fake.resets.load(SeqCst), 0);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_clearly() {
    let server = start(Limits::default()).await;
    ask(&server, "POST /nowhere", "").await.assert_fault(404, "UnknownOperationException");
    ask(&server, "GET /_dms-local/", "").await.assert_fault(404, "UnknownOperationException");
    for (line, allow) in [("GET /", "post"), ("POST /_dms-local/health", "get"), ("GET /_dms-local/reset", "post")] {
        let answer = ask(&server, line, "").await;
        answer.assert_fault(405, "MalformedHttpRequestException");
        assert!(answer.head.contains(&format!("allow: {allow}\r\n")), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_closes_the_connection() {
    let server = start(Limits::default()).await;
    for garbage in ["\u{16}\u{3}\u{1}\u{2}\u{0}garbage\r\n\r\n", "GET\r\n\r\n", &"x".repeat(100_000)] {
        let mut client = server.connect().await;
        let _ = client.0.write_all(garbage.as_bytes()).await;
        client.closed().await;
    }
    assert_eq!(server.call("DescribeAccountAttributes", "{}").await.status, 200);
}
