# What Amanda's own catalogue says is on tape, as JSON: for comparison with ours.
# Usage, as the dump user: perl catalogue_dumps.pl CONFIG
use strict;
use warnings;
use lib glob("/usr/lib/*/amanda/perl"), "/usr/lib/amanda/perl";
use JSON;
use Amanda::Config qw(:init :getconf);
use Amanda::DB::Catalog;
use Amanda::Disklist;
use Amanda::Util qw(:constants);

Amanda::Util::setup_application("amadmin", "server", $CONTEXT_CMDLINE, "amanda", "amanda");
config_init($CONFIG_INIT_EXPLICIT_NAME, $ARGV[0]);
die "bad configuration" if (config_errors())[0] >= $CFGERR_ERRORS;
Amanda::Disklist::read_disklist();

my @dumps;
for my $dump (Amanda::DB::Catalog::get_dumps(holding => 0)) {
    my @parts = map { {
        label => $_->{label}, file => 0 + "$_->{filenum}", number => 0 + "$_->{partnum}",
        status => $_->{status},
    } } grep { defined } @{$dump->{parts} || []};
    push @dumps, {
        host => $dump->{hostname}, disk => $dump->{diskname}, level => 0 + "$dump->{level}",
        timestamp => $dump->{dump_timestamp}, written => $dump->{write_timestamp},
        status => $dump->{status}, message => $dump->{message}, size => 0 + "$dump->{bytes}",
        parts => \@parts,
    };
}
# names are bytes: latin1 keeps them as they are
print JSON->new->latin1->canonical->pretty->encode(\@dumps);
