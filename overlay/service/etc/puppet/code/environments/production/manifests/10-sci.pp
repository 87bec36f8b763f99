# From SCI-CD, overlay/service: every machine gets the class sci, and those that
# your data name. Your own files beside this one (*.pp) are read too; your modules
# belong into modules/. Neither is ever overwritten.
include sci

lookup('classes', Array[String], 'unique', []).include

# For machines that no node block of yours names.
node default {}
