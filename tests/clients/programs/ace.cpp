// The reactor of ACE.
#include <ace/Event_Handler.h>
#include <ace/Reactor.h>

#include "client.h"

struct Device : ACE_Event_Handler {
	int fd;
	ACE_HANDLE get_handle() const override { return fd; }
	int handle_input(ACE_HANDLE) override
	{
		woken(fd, 0);
		return 0;
	}
};

int main(int argc, char **argv)
{
	Device device;

	device.fd = open_device(argc, argv, O_NONBLOCK);
	if (ACE_Reactor::instance()->register_handler(&device, ACE_Event_Handler::READ_MASK))
		return 1;
	return ACE_Reactor::instance()->run_reactor_event_loop();
}
