"""Archives: recordings on disks and in buckets become Parquet data sets, chunk by chunk, on Ray Data."""
