// The lines of a std::fs::File.
mod client;
use std::io::{BufRead, BufReader};

fn main() {
    for line in BufReader::new(client::device(0)).lines() {
        match line {
            Ok(line) => client::say(&format!("told {line}")),
            Err(error) => client::end(&error.to_string()),
        }
    }
    client::end("end of file")
}
