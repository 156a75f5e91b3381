// Asio alone, or that of Boost (-DBOOST).
#ifdef BOOST
#include <boost/asio.hpp>
namespace asio = boost::asio;
#else
#include <asio.hpp>
#endif
#include "client.h"

static void wait(asio::posix::stream_descriptor &device)
{
	device.async_wait(asio::posix::stream_descriptor::wait_read, [&device](auto error) {
		if (error)
			end_with(error.message().c_str(), 0);
		woken(device.native_handle(), 0);
		wait(device);
	});
}

int main(int argc, char **argv)
{
	asio::io_context context;
	asio::posix::stream_descriptor device(context, open_device(argc, argv, O_NONBLOCK));

	wait(device);
	context.run();
}
