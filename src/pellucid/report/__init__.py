"""Reports: pages of HTML that tell what was found, in prose and pictures, each in one file."""
