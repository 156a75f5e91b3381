mod client;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::os::unix::io::AsRawFd;

fn main() {
    let device = client::device(client::NONBLOCK);
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    poll.registry().register(&mut SourceFd(&device.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in events.iter() {
            client::woken(&device, if event.is_error() { "is_error" } else { "" });
        }
    }
}
