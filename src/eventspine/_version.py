"""The release, read by the build too."""

RELEASE = "0.1.0"
