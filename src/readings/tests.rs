//! Tests of the ways to read a path, and that every order of the steps is among them.

use proptest::prelude::*;

use super::steps::STEPS;
use super::*;

fn normal_of(path: &str) -> Result<String, Unreadable> {
    Readings::of(path.as_bytes()).map(|read| String::from_utf8_lossy(&read.normal).into_owned())
}

fn all(path: &str) -> Vec<String> {
    let read = Readings::of(path.as_bytes()).unwrap();
    read.all.iter().map(|reading| String::from_utf8_lossy(reading).into_owned()).collect()
}

#[test]
fn paths_have_a_normal_form() {
    for (path, normal) in [
        ("/%61dmin", "/admin"),
        ("/%61%64%6d%69%6E/x", "/admin/x"),
        ("//admin", "/admin"),
        ("///admin//x", "/admin/x"),
        ("/./admin", "/admin"),
        ("/x/../admin", "/admin"),
        ("/%2e/admin", "/admin"),
        ("/x/%2e%2E/admin", "/admin"),
        ("/x/.%2e/admin", "/admin"),
        ("/x%2f..%2fadmin", "/admin"),
        ("/admin%2fx", "/admin/x"),
        ("%2fadmin", "/admin"),
        ("/admin;v=1/x;y", "/admin/x"),
        ("/;v=1/admin", "/admin"),
        ("/x\\..\\admin", "/admin"),
        ("/%5cadmin", "/admin"),
        ("/admin/.", "/admin/"),
        ("/admin/x/..", "/admin/"),
        ("/admin/..", "/"),
        ("/...", "/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/caf%c3%a9", "/caf\u{e9}"),
        ("/%2561dmin", "/%61dmin"),
        ("/100%25", "/100%"),
        ("/Admin", "/Admin"),
    ] {
        assert_eq!(normal_of(path).as_deref(), Ok(normal), "{path}");
    }
}

#[test]
fn paths_without_one_meaning_are_refused() {
    for (path, why) in [
        ("/%", Unreadable::Escape),
        ("/%a", Unreadable::Escape),
        ("/%zz", Unreadable::Escape),
        ("/%u0061dmin", Unreadable::Escape),
        ("/%%61", Unreadable::Escape),
        ("/admin%00", Unreadable::Nul),
        ("/x%2500", Unreadable::Nul),
        ("/..", Unreadable::AboveRoot),
        ("/../admin", Unreadable::AboveRoot),
        ("/x/%2e%2e/../admin", Unreadable::AboveRoot),
        ("/..;/admin", Unreadable::AboveRoot),
        ("/%2e%2e%2fadmin", Unreadable::AboveRoot),
        ("/%252e%252e/admin", Unreadable::AboveRoot),
        ("/%c0%afadmin", Unreadable::Overlong),
        ("/%c1%a1dmin", Unreadable::Overlong),
        ("/%e0%80%af", Unreadable::Overlong),
        ("/%f0%80%80%af", Unreadable::Overlong),
        ("/%25c0%25af", Unreadable::Overlong),
    ] {
        assert_eq!(normal_of(path), Err(why), "{path}");
    }
    let deep = format!("/a;x{}/%2561//b\\c%20/%3fd%23%09", "/;y%25252541//".repeat(9));
    assert_eq!(normal_of(&deep), Err(Unreadable::TooMany));
    let long = format!("/a;x//{}/b%255cc/%2520/%253f%20", "y".repeat(30_000));
    assert_eq!(normal_of(&long), Err(Unreadable::TooMany));
}

/// Each of these was read by some worker or library as written here.
#[test]
fn other_readings_are_known_as_well() {
    for (path, reading) in [
        ("/%2561dmin", "/admin"),
        ("/%25252561dmin", "/admin"),
        ("/admin/../x", "/admin/../x"),
        // Node: `new URL(request.url, "http://a")`.
        ("//x/admin", "/admin"),
        ("/\\x/admin", "/admin"),
        // The same, whose result is decoded once more.
        ("/a/../admin%2f..%2fb", "/admin/../b"),
        // Apache with mod_rewrite (CVE-2024-38474).
        ("/admin%3fx", "/admin"),
        ("/admin%23x", "/admin"),
        // `$` of Python's and Ruby's regular expressions fits before a line end.
        ("/admin%0a", "/admin"),
        ("/admin%20", "/admin"),
        // Decoders that ignore errors.
        ("/ad%ffmin", "/admin"),
        ("/public%2fx", "/public%2fx"),
        ("/admin;x", "/admin;x"),
    ] {
        assert!(all(path).iter().any(|one| one == reading), "{path}: {:?}", all(path));
    }
}

#[test]
fn ordinary_paths_have_few_readings() {
    for (path, most) in [
        ("/files/a%20b.txt", 1),
        ("/caf%c3%a9/%E4%BD%A0", 1),
        ("/caf%e9", 2),
        ("/a%2fb", 2),
        ("//socket.io/", 3),
        ("/app;jsessionid=1/x", 2),
        ("/100%2525", 3),
        ("/proxy/https%3A%2F%2Fa.example%2Fb%2520c%3Fd%3De%26f%3D%252F#", 24),
    ] {
        let path = path.trim_end_matches('#');
        assert!(!is_plain(path.as_bytes()) && all(path).len() <= most, "{path}: {:?}", all(path));
    }
    for path in ["/", "/socket.io/", "/@a/~b/c:d,e=f&g+h!$'()*", "/.well-known/x", "/a./..b/.c/x.y", "*"] {
        assert!(is_plain(path.as_bytes()), "{path}");
    }
}

proptest! {
    #[test]
    fn a_plain_path_has_one_reading(path in "/[a-z./%;\\\\?#\u{e9} ]{0,12}") {
        let plain = is_plain(path.as_bytes());
        match Readings::of(path.as_bytes()) {
            Ok(read) if plain => prop_assert_eq!(&read.all, &[path.clone().into_bytes()]),
            Err(why) => prop_assert!(!plain, "{:?}", why),
            Ok(_) => {}
        }
        prop_assert!(!plain || normal(path.as_bytes()).as_deref() == Ok(path.as_bytes()));
    }

    #[test]
    fn all_orders_of_the_steps_are_read(
        path in "/([a-c./;\\\\]|%2[ef]|%5c|%3[bf]|%25|%ff|%09|%20){0,10}",
        order in prop::collection::vec(0..STEPS.len(), 0..8),
    ) {
        let Ok(read) = Readings::of(path.as_bytes()) else { return Ok(()) };
        prop_assert!(read.all.contains(&read.normal) || read.all.len() == 1, "{:?}", read);
        let mut worker = read.all[0].clone();
        for step in order {
            if let Some(made) = STEPS[step](&worker).unwrap() {
                worker = made;
            }
            prop_assert!(read.all.contains(&worker), "{:?} is not in {:?}", worker, read);
        }
    }

    #[test]
    fn any_path_is_read_or_refused_within_bounds(path in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(read) = Readings::of(&path) {
            prop_assert!(read.all.len() <= MAX_READINGS);
            prop_assert!(read.all.iter().map(Vec::len).sum::<usize>() <= MAX_BYTES + 5 * path.len());
        }
    }
}
