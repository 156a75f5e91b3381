// The crate polling, as it is: oneshot.
mod client;

fn main() {
    let device = client::device(client::NONBLOCK);
    let poller = polling::Poller::new().unwrap();
    poller.add(&device, polling::Event::readable(1)).unwrap();
    let mut events = Vec::new();
    loop {
        events.clear();
        poller.wait(&mut events, None).unwrap();
        for _ in &events {
            client::woken(&device, "");
            poller.modify(&device, polling::Event::readable(1)).unwrap();
        }
    }
}
