#!/usr/bin/perl
# Plain English prose from documentation files (HTML, POD; .gz too).
#   find DIR -name '*.html' | LC_ALL=C sort | perl scripts/extract_text.pl [--max-bytes N] > corpus.txt
# Reads file names from standard input; writes one paragraph a line and a blank line between documents (files), the format of
# `electra data build`. Code, tables, headings, indexes and navigation are left out, and so is every paragraph that does not
# look like sentences of English or was written before. Only Perl's base package is needed.
use strict;
use warnings;

my %options = ('--max-bytes' => 0);
while (@ARGV) {
  my $name = shift;
  die "[extract_text] expected --max-bytes N, got $name\n" unless exists $options{$name} && @ARGV;
  $options{$name} = shift;
}

# Words that make up a third of running English and next to nothing of a list of names or of another language.
my %function_word = map { $_ => 1 } qw(
  a about after all also an and any are as at be because been before but by can do does for from had has have he her his how
  if in into is it its may more most must no not of on one only or other our out over same she should so some such than that
  the their them then there these they this to up use used using was we were what when where which while who will with would
  you your);

my %entity = (
  amp => '&', lt => '<', gt => '>', quot => '"', apos => "'", nbsp => ' ', ndash => "\x{2013}", mdash => "\x{2014}",
  lsquo => "\x{2018}", rsquo => "\x{2019}", ldquo => "\x{201c}", rdquo => "\x{201d}", hellip => "\x{2026}", shy => '',
  copy => "\x{a9}", eacute => "\x{e9}", egrave => "\x{e8}", aacute => "\x{e1}", ouml => "\x{f6}", uuml => "\x{fc}",
  auml => "\x{e4}", ccedil => "\x{e7}", times => "\x{d7}", para => '', minus => "\x{2212}");

sub decode_entities {
  my ($text) = @_;
  $text =~ s/&#x([0-9a-fA-F]{1,6});/chr hex $1/ge;
  $text =~ s/&#([0-9]{1,7});/chr $1/ge;
  $text =~ s/&([A-Za-z]+);/exists $entity{$1} ? $entity{$1} : "&$1;"/ge;
  return $text;
}

# Tags that continue the sentence they stand in; every other tag ends a paragraph.
my $inline = qr/(?:a|abbr|acronym|b|big|bdi|cite|code|dfn|em|font|i|kbd|mark|q|s|samp|small|span|strong|sub|sup|tt|u|var)/i;
# Elements whose content is not prose.
my $dropped = qr/(?:head|script|style|pre|table|nav|svg|math|form|footer|h[1-6]|dt|title|button|select|textarea)/i;

sub html_paragraphs {
  my ($html) = @_;
  $html =~ s/<!--.*?-->//gs;
  $html =~ s/<($dropped)\b[^>]*>.*?<\/\1\s*>/<p>/gis;
  $html =~ s/<a\b[^>]*class="headerlink"[^>]*>.*?<\/a>//gis;
  $html =~ s/<\/?$inline\b[^>]*>//gs;
  return map { decode_entities($_) } split /<[^>]*>/, $html;
}

sub pod_paragraphs {
  my ($pod) = @_;
  my @paragraphs;
  my $in_pod = 0;
  for my $block (split /\n\s*\n/, $pod) {
    if ($block =~ /^\s*=(\w+)/) {
      $in_pod = $1 ne 'cut' && $1 ne 'begin';
      next;
    }
    next if !$in_pod || $block =~ /^\s/;  # indented: code
    # Innermost formatting codes first, so that nested ones unfold: C<< x >>, L<text|target>, B<I<x>>.
    for (1 .. 4) {
      $block =~ s/[BCFIS](?:<<+\s+(.*?)\s+>>+|<([^<>]*)>)/defined $1 ? $1 : $2/ges;
      $block =~ s/L<(?:([^<>|]*)\|)?([^<>]*)>/defined $1 ? $1 : $2/ges;
      $block =~ s/[XZ]<[^<>]*>//g;
    }
    $block =~ s/E<(\w+)>/decode_entities("&$1;")/ge;
    push @paragraphs, $block;
  }
  return @paragraphs;
}

# Sentences of English: a capital first, a full stop last, mostly letters, words of usual length, enough function words.
sub is_prose {
  my ($text) = @_;
  return 0 if $text =~ /&\w+;/;  # a symbol this script does not know
  return 0 unless $text =~ /^["'(\x{201c}\x{2018}]?[A-Z]/ && $text =~ /[.!?]["')\x{201d}\x{2019}]*$/;
  my @words = split / /, $text;
  return 0 if @words < 8;
  my $length = length $text;
  return 0 if ($text =~ tr/a-zA-Z //) < 0.90 * $length;
  return 0 if ($text =~ tr/_{}<>=\/\\|$#@*+~^[]&%;//) > 0.015 * $length;
  return 0 if ($text =~ tr/A-Z//) > 0.12 * $length;
  return 0 if $length > 9 * @words || grep { length > 40 } @words;
  my $common = grep { exists $function_word{$_} } map { lc } @words;
  return $common >= 0.22 * @words;
}

binmode STDOUT, ':utf8';
my (%seen, $written);
$written = 0;
FILE: while (my $path = <STDIN>) {
  chomp $path;
  my $handle;
  if ($path =~ /\.gz$/) {
    open $handle, '-|', 'gzip', '-dc', $path or die "[extract_text] expected to read $path, got $!\n";
  } else {
    open $handle, '<', $path or die "[extract_text] expected to read $path, got $!\n";
  }
  my $content = do { local $/; <$handle> };
  close $handle;
  next unless defined $content && utf8::decode($content);  # not UTF-8: left out

  my @kept;
  for my $text ($path =~ /\.pod(?:\.gz)?$/ ? pod_paragraphs($content) : html_paragraphs($content)) {
    $text =~ s/[\s\x{a0}]+/ /g;
    $text =~ s/^ | $//g;
    next unless is_prose($text);
    # The same sentence about another number or in another case is the same sentence.
    (my $key = lc $text) =~ s/[^a-z]+/ /g;
    push @kept, $text unless $seen{$key}++;
  }
  my $length = 0;
  $length += 1 + length for @kept;
  next if $length < 200;  # too little to be a document
  print $_, "\n" for @kept;
  print "\n";
  $written += $length;
  last FILE if $options{'--max-bytes'} && $written >= $options{'--max-bytes'};
}
