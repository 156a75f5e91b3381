#include <QCoreApplication>
#include <QSocketNotifier>

#include "client.h"

int main(int argc, char **argv)
{
	int fd = open_device(argc, argv, O_NONBLOCK);
	QCoreApplication application(argc, argv);
	QSocketNotifier notifier(fd, QSocketNotifier::Read);

	QObject::connect(&notifier, &QSocketNotifier::activated, [fd] { woken(fd, 0); });
	return application.exec();
}
