"""What stands before and after a network, the same in training, in calibration and on the device."""
