"""One reader for each file format; `any_format` selects the reader by the file's name and contents."""
