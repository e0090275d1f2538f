"""Label maps and lists of the paper's data sets, made from the files that their authors publish. No Jittor."""
