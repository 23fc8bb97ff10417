-- Called in the transaction of each change of what may start: a dispatch by older controls starts nothing afterwards.
update infermq.control_version set number = number + 1
