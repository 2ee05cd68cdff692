//! `[[listener]] health`: stickyd answers health checks of itself on the port of its clients.

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};

#[test]
fn the_traffic_port_answers_health_checks() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nhealth = \"/healthz\"\n[upstream.app]\nworkers = [\"{}\"]\n\
         [upstream.dead]\nworkers = [{{ address = \"127.0.0.1:9\", admin = \"maint\" }}]\n[[route]]\npath = \"/dead\"\n\
         upstream = \"dead\"\n[[route]]\nupstream = \"app\"\ndeny = [\"127.0.0.0/8\"]",
        worker.address
    ));
    let ask = |start: &str, fields: &str| {
        let answer = Raw::connect(proxy.address).ask(&format!("{start}\r\n{fields}\r\n"));
        (answer.status(), answer.text().to_owned())
    };
    let ok = (200, "ok\n".to_owned());
    assert_eq!(ask("GET /healthz HTTP/1.1", "Host: 10.1.2.3:80\r\n"), ok, "guards do not apply");
    assert_eq!(ask("GET /healthz?x=1 HTTP/1.1", "Host: a\r\n"), ok);
    assert_eq!(ask("GET /healthz HTTP/1.0", ""), ok, "old checkers name no host");
    assert_eq!(ask("HEAD /healthz HTTP/1.1", "Host: a\r\n"), (200, String::new()));
    assert_eq!(ask("GET /healthz?upstream=app HTTP/1.1", "Host: a\r\n"), ok);
    let none = (503, "no worker of `dead` takes new sessions\n".to_owned());
    assert_eq!(ask("GET /healthz?upstream=dead HTTP/1.1", "Host: a\r\n"), none);
    assert_eq!(ask("GET /healthz?upstream=none HTTP/1.1", "Host: a\r\n").0, 404);
    // Everything else is the workers'; here the guard rejects it.
    for start in ["POST /healthz HTTP/1.1", "GET /healthz/ HTTP/1.1", "GET /health HTTP/1.1"] {
        assert_eq!(ask(start, "Host: a\r\nContent-Length: 0\r\n").0, 403, "{start}");
    }
}

#[test]
fn a_listener_that_redirects_answers_health_checks_too() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nredirect = \"https\"\nhealth = \"/healthz\"\n\
         [upstream.app]\nworkers = [\"{}\"]",
        worker.address
    ));
    assert_eq!(Raw::connect(proxy.address).get("/healthz").text(), "ok\n");
    assert_eq!(Raw::connect(proxy.address).get("/other").status(), 308);
}
