// Asio: async_read_some(), as most programs read.
#ifdef BOOST
#include <boost/asio.hpp>
namespace asio = boost::asio;
#else
#include <asio.hpp>
#endif
#include "client.h"

static char text[4096];

static void wait(asio::posix::stream_descriptor &device)
{
	device.async_read_some(asio::buffer(text), [&device](auto error, std::size_t got) {
		if (error)
			end_with(error.message().c_str(), 0);
		printf("told %.*s\n", static_cast<int>(got) - 1, text);
		wait(device);
	});
}

int main(int argc, char **argv)
{
	asio::io_context context;
	asio::posix::stream_descriptor device(context, open_device(argc, argv, 0));

	wait(device);
	context.run();
}
