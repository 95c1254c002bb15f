"""What the campaign of faults is made of: children that are killed, full disks, hostile files, odd inputs."""
