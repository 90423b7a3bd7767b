"""From detections of successive frames to tracks that can be believed."""
