"""What has been taken back: the rules, the resource, the stores."""
