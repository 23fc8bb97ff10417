select number from infermq.key_version
