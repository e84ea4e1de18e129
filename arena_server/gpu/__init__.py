"""What the devices say of their memory: NVML, and host RAM where there is no GPU."""
