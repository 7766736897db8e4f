"""What `spine new` writes: files as they will be, with NAME (of the folder) and MODULE (of the package) to be filled in.

They end in `.in`, so that no tool takes them for files of this package."""
