// poll() by the crate nix.
mod client;
use nix::poll::{poll, PollFd, PollFlags};
use std::os::unix::io::AsRawFd;

fn main() {
    let device = client::device(client::NONBLOCK);
    let mut watched = [PollFd::new(device.as_raw_fd(), PollFlags::POLLIN)];
    loop {
        poll(&mut watched, -1).unwrap();
        let over = watched[0].revents().unwrap() - PollFlags::POLLIN;
        client::woken(&device, &if over.is_empty() { String::new() } else { format!("{over:?}") });
    }
}
