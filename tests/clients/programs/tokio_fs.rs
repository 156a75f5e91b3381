// tokio::fs: a thread of the pool, blocked in read().
mod client;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut lines = BufReader::new(tokio::fs::File::from_std(client::device(0))).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => client::say(&format!("told {line}")),
            Ok(None) => client::end("end of file"),
            Err(error) => client::end(&error.to_string()),
        }
    }
}
