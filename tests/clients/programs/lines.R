path <- commandArgs(trailingOnly = TRUE)[1]
device <- file(path, "r", blocking = TRUE, raw = TRUE)
cat("ready\n")
while (length(line <- readLines(device, 1)) > 0) cat("told ", line, "\n", sep = "")
cat("end readLines empty\n")
