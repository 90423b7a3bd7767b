"""Results out: files, pictures, videos, messages."""
