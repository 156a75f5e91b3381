// std::getline on a std::ifstream.
#include <fstream>
#include <iostream>
#include <string>

int main(int argc, char **argv)
{
	std::ifstream device(argc > 1 ? argv[1] : "");
	std::string line;

	std::cout << "ready" << std::endl;
	while (std::getline(device, line))
		std::cout << "told " << line << std::endl;
	std::cout << "end " << (device.eof() ? "end of file" : "badbit") << std::endl;
}
