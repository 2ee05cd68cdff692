//! Secrets that name an environment variable, which the configuration does not read: in the file, in the files that it
//! names, and in addresses.

use super::{HEAD, TempDir, errors_in};

const REDIS: &str = "[fleet]\nredis = \"redis://a\"\n";
const MAIL: &str = "[[notify.to]]\nmail = { smtp = \"a.example:587\", from = \"a@b.example\", to = [\"a@b.example\"], ";
const EMIT: &str = "emit = { via = \"redis-adapter\", redis = \"redis://a\", ";
const JWT: &str = "[[route]]\nupstream = \"app\"\n[route.jwt]\n";

#[test]
fn a_secret_that_names_an_environment_variable_is_refused() {
    let dir = TempDir::new("variables");
    dir.write("variable", "${STICKYD_APPLICATION_SECRET}\n");
    dir.write("variable.url", "https://hooks.example/${HOOK}\n");
    dir.write("sound", "0123456789abcdef0123456789abcdef");
    let file = "cannot use variable: it has the name of an environment variable, and none is read here";
    let address = "the address names an environment variable, and none is read here";
    let secret = "`secret` names an environment variable, and none is read here";
    for (top, below, why, help) in [
        ("secret = \"${STICKYD_APPLICATION_SECRET}\"", "", secret, "write secret_file = "),
        ("secret = \"${SECRET:-changeme}\"", "", secret, "write secret_file = "),
        ("secret = \"$STICKYD_SECRET_OF_APP\"", "", secret, "write secret_file = "),
        ("secret_file = \"variable\"", "", file, "write the value itself into the file"),
        ("", "[admin]\nread_token_file = \"variable\"", file, "write the value itself into the file"),
        ("", &format!("{JWT}secret = \"${{JWT_KEY_OF_APP}}\""), secret, "write secret_file = \"jwt.key\""),
        ("", &format!("{JWT}secret_file = \"variable\""), file, "write the value itself"),
        ("", &format!("{JWT}keys = \"https://${{ISSUER}}/jwks.json\""), address, "write the address itself"),
        ("secret_file = \"sound\"", "[fleet]\nredis = \"redis://:${PASS}@a\"", address, "password_file = "),
        ("secret_file = \"sound\"", &format!("{REDIS}username = \"${{USER}}\""), "`username` names", "the name itself"),
        ("", &format!("{EMIT}username = \"${{USER}}\" }}"), "`username` names", "write the name itself"),
        ("", &format!("{EMIT}password_file = \"variable\" }}"), file, "write the value itself"),
        ("secret_file = \"sound\"", &format!("{REDIS}password_file = \"variable\""), file, "write the value itself"),
        ("", &format!("{MAIL}user = \"a\", password_file = \"variable\" }}"), file, "write the value itself"),
        ("", &format!("{MAIL}user = \"$SMTP_USER\", password_file = \"sound\" }}"), "`user` names", "the name itself"),
        ("", "[[notify.to]]\ndiscord = { url = \"https://a.example/${HOOK}\" }", address, "write the address itself"),
        ("", "[[notify.to]]\ndiscord = { url_file = \"variable.url\" }", address, "here or in its file"),
        ("", "[[notify.to]]\nntfy = { url_file = \"sound\", token_file = \"variable\" }", file, "the value itself"),
    ] {
        let said = errors_in(&dir, &format!("{top}\n{HEAD}{below}\n"));
        assert!(said.contains(why) && said.contains(help), "{top} {below}: {said}");
    }
}
