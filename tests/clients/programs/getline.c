/* stdio: getline() on a stream. */
#include "client.h"

int main(int argc, char **argv)
{
	FILE *stream = fdopen(open_device(argc, argv, 0), "r");
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, stream) > 0)
		printf("told %s", line);
	end_with(feof(stream) ? "end of file" : "", errno);
}
