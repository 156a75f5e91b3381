// async-io, the reactor of smol and async-std.
mod client;

fn main() {
    let device = async_io::Async::new(client::device(client::NONBLOCK)).unwrap();
    async_io::block_on(async {
        loop {
            device.readable().await.unwrap();
            client::woken(device.get_ref(), "");
        }
    });
}
