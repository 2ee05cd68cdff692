//! The pure parts of the page, by `node --test` (`tests/page/*.test.mjs`).

use std::process::Command;

use crate::support::temp::TempDirectory;

#[test]
fn pure_parts_of_the_page_pass_their_tests() {
    // The page's files are modules; node learns that from a package.json, which the folder of sources does not have.
    let folder = TempDirectory::new("page");
    let copy = |from: &str, ending: &str| {
        for file in std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(ending) {
                std::fs::copy(&file, folder.path(&name)).unwrap();
            }
        }
    };
    copy("src/admin/page", ".js");
    copy("tests/page", ".test.mjs");
    std::fs::write(folder.path("package.json"), "{\"type\": \"module\"}").unwrap();
    let ran = Command::new("node").arg("--test").current_dir(folder.root()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    let passed = said.lines().find_map(|line| line.trim_start_matches(['#', 'ℹ', ' ']).strip_prefix("pass "));
    assert!(passed.is_some_and(|count| count.trim().parse::<u32>().unwrap() >= 20), "they ran: {said}");
}
