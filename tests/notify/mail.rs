//! Mail, against a real server: without TLS, with STARTTLS and TLS of a private authority, and servers that refuse,
//! put off or hang.

use serde_json::{Value, json};

use super::{Receiver, Target, run, stickyd};
use crate::support::proxy::Binary;
use crate::support::tls::Certificates;

/// A stickyd with one receiver, `mail`.
fn mailing(target: &Target, smtp: &Receiver, more: &str) -> Binary {
    let to = format!(
        "[notify]\n[[notify.to]]\nmail = {{ smtp = \"localhost:{}\", from = \"s@example.com\", to = [\"o@example.com\"], \
         {more} }}\n",
        smtp.port
    );
    stickyd(&[target], "", &to)
}

fn test(binary: &Binary) -> (Option<i32>, String) {
    let (code, out, err) = run(binary, &["notify", "test", "--config", "stickyd.toml"]);
    (code, out + &err)
}

fn options(certificates: &Certificates, more: &Value) -> Value {
    let file = |name: &str| certificates.directory.join(name).display().to_string();
    let mut all =
        json!({ "cert": file("mail.pem"), "key": file("mail.key"), "user": "apikey", "pass": "hunter2hunter2" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_over_starttls_and_tls_of_a_private_authority() {
    let certificates = Certificates::new();
    certificates.issue("mail", &["localhost"]);
    certificates.write("pass", "hunter2hunter2\n");
    let at = certificates.directory.display();
    let target = Target::start();
    let login = format!("ca = \"{at}/ca.pem\", user = \"apikey\", password_file = \"{at}/pass\"");
    for (secure, tls) in [(false, "starttls"), (true, "tls")] {
        let mut smtp = Receiver::smtp(&options(&certificates, &json!({ "secure": secure }))).await;
        let binary = mailing(&target, &smtp, &format!("tls = \"{tls}\", {login}"));
        let (code, said) = test(&binary);
        assert_eq!(code, Some(0), "{tls}: {said}");
        let logged_in = smtp.next().await;
        assert_eq!((&logged_in["fits"], &logged_in["tls"]), (&json!(true), &json!(true)), "{tls}");
        let mail = smtp.next().await;
        assert_eq!((&mail["tls"], &mail["user"]), (&json!(true), &json!("apikey")));
        assert!(mail["subject"].as_str().unwrap().ends_with("test message"), "{mail}");
        // Another authority is not trusted.
        let other = Certificates::new();
        let with_other = format!("tls = \"{tls}\", ca = \"{}/ca.pem\"", other.directory.display());
        let (code, said) = test(&mailing(&target, &smtp, &with_other));
        assert!(code == Some(1) && said.contains("invalid peer certificate"), "{tls}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_puts_off_or_hangs_is_reported() {
    let certificates = Certificates::new();
    certificates.issue("mail", &["localhost"]);
    certificates.write("pass", "wrong-password\n");
    let at = certificates.directory.display();
    let target = Target::start();
    let mut smtp = Receiver::smtp(&options(&certificates, &json!({}))).await;
    let login = format!("ca = \"{at}/ca.pem\", user = \"apikey\", password_file = \"{at}/pass\"");
    let binary = mailing(&target, &smtp, &login);
    let (code, said) = test(&binary);
    assert!(code == Some(1) && said.contains("535") && said.contains("Invalid user name or password"), "{said}");
    assert_eq!(smtp.next().await["fits"], false);
    assert!(!binary.log().contains("wrong-password"));
    // A server without STARTTLS gets no mail without TLS.
    let plain = Receiver::smtp(&json!({})).await;
    let (code, said) = test(&mailing(&target, &plain, "tls = \"starttls\""));
    assert!(code == Some(1) && said.contains("STARTTLS"), "{said}");
    let busy = Receiver::smtp(&json!({ "answer": 450 })).await;
    let (code, said) = test(&mailing(&target, &busy, "tls = \"none\""));
    assert!(code == Some(1) && said.contains("450"), "{said}");
    let hangs = Receiver::smtp(&json!({ "hang": true })).await;
    let (code, said) = test(&mailing(&target, &hangs, "tls = \"none\""));
    assert!(code == Some(1) && said.contains("mail: not sent: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_put_off_is_delivered_later() {
    let mut smtp = Receiver::smtp(&json!({ "answer": 450 })).await;
    let (one, mut two) = (Target::start(), Target::start());
    let to = format!(
        "[notify]\nafter = \"1s\"\ngroup = \"0s\"\n[[notify.to]]\nmail = {{ smtp = \"127.0.0.1:{}\", tls = \"none\", \
         from = \"s@example.com\", to = [\"o@example.com\"] }}\n",
        smtp.port
    );
    let binary = stickyd(&[&one, &two], "", &to);
    crate::support::wait::wait_for("both workers are up", || {
        crate::support::admin::healths(&binary).iter().all(|(_, health)| health == "up")
    });
    two.die();
    let (first, second) = (smtp.next().await, smtp.next().await);
    assert_eq!((&first["code"], &second["code"]), (&json!(450), &json!(250)));
    assert_eq!(first["id"], second["id"], "a repetition can be recognised");
}
