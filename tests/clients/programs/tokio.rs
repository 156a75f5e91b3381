// AsyncFd: the guard's readiness is cleared once a read would block.
mod client;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let device = AsyncFd::with_interest(client::device(client::NONBLOCK), Interest::READABLE).unwrap();
    loop {
        let mut guard = device.readable().await.unwrap();
        client::woken(device.get_ref(), "");
        guard.clear_ready();
    }
}
