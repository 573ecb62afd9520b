"""One reader a file format; `any_format` picks one by the file's name and contents."""
