// What the programs in Rust share. tests/clients/__init__.py says what they print.
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

pub fn reads() -> bool {
    std::env::args().nth(2).as_deref() == Some("read")
}

pub fn device(flags: i32) -> File {
    let path = std::env::args().nth(1).expect("PROGRAM DEVICE read|poll");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).expect("the device");
    say("ready");
    file
}

pub const NONBLOCK: i32 = 0o4000;

pub fn end(said: &str) -> ! {
    say(&format!("end {said}"));
    std::process::exit(0)
}

// The loop said that the device is readable. True if nothing was left to read.
pub fn woken(mut file: &File, said: &str) -> bool {
    if !reads() {
        if !said.is_empty() {
            end(said);
        }
        say("woken");
        return true;
    }
    let mut text = [0; 4096];
    match file.read(&mut text) {
        Ok(0) => end("end of file"),
        Ok(got) => say(&format!("told {}", String::from_utf8_lossy(&text[..got - 1]))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            if !said.is_empty() {
                end(said);
            }
            say("empty");
            return true;
        }
        Err(error) => end(&format!("{said} {error}")),
    }
    false
}
