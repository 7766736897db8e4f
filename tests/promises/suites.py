"""Which fault the tests of the conformance suites are about, for every class that runs a suite and is marked with its
set-up: `@pytest.mark.setup("postgres")`, or `@pytest.mark.setup("sqlite", processes="sqlite processes")` where the tests with other
processes speak for another column than the rest."""

from __future__ import annotations

JOURNALS = {
    "Killed::test_what_was_acknowledged_before_a_kill_is_there_and_every_unit_is_whole": "process killed",
    "Killed::test_a_reader_beside_killed_writers_sees_every_event_once_and_no_gap": "process killed",
    "Killed::test_the_cursor_goes_with_what_was_published_and_parked": "process killed",
    "Killed::test_who_was_killed_loses_its_lease_and_nothing_it_did_counts_any_more": "process killed",
    "Killed::test_killing_whoever_writes_holds_up_nobody": "process killed",
    "Fencing::test_of_two_that_take_themselves_for_the_owner_one_can_act": "process stopped",
    "Leases::test_who_was_late_but_missed_by_nobody_goes_on": "process stopped",
    "Racing::test_an_append_asked_again_by_many_at_once_happens_once": "published twice",
    "Cursors::test_a_unit_whose_ranges_are_finished_already_is_a_repetition": "commit unknown",
    "Cursors::test_a_repetition_answers_with_what_the_first_did": "commit unknown",
    "Statements::test_a_statement_happens_with_its_unit_or_not_at_all": "handler fails",
    "Statements::test_a_unit_whose_second_statement_fails_leaves_nothing_of_the_first": "handler fails",
    "Statements::test_r5_whatever_a_statement_does_other_units_are_not_harmed": "handler's SQL",
}
BROKERS = {
    "Killed::test_a_crash_between_the_handler_and_its_commit_repeats_the_handler_and_no_effect": "process killed",
    "Killed::test_killed_again_and_again_it_still_does_everything_once": "process killed",
    "Killed::test_what_publish_has_answered_for_outlives_its_process": "process killed",
    "Killed::test_one_that_stands_still_past_its_lease_is_taken_over_and_commits_nothing_late": "process stopped",
    "Publishing::test_the_same_event_published_twice_is_handled_once": "published twice",
    "Publishing::test_also_when_both_are_published_at_once_and_by_two": "published twice",
    "Retrying::test_what_fails_is_tried_again_and_the_attempts_count_up": "handler fails",
    "Retrying::test_what_can_not_be_decoded_is_dead_and_the_others_go_on": "unreadable",
    "Server::test_a_server_that_is_killed_and_started_again_loses_and_repeats_nothing": "server killed",
    "Server::test_publishing_to_a_server_that_is_away_is_stored_or_says_so": "server killed",
    "Server::test_who_starts_while_the_server_is_away_begins_when_it_is_back": "server killed",
    "Cuts::test_a_consumer_that_was_cut_off_without_a_word_comes_back_by_itself": "cut off",
    "Cuts::test_its_health_says_that_nothing_passes": "cut off",
    "Relaying::test_while_the_server_is_full_publishing_goes_on_up_to_a_bound_and_then_all_arrives": "broker full",
    "Relaying::test_over_a_slow_network_publishing_goes_on_up_to_a_bound_and_all_arrives": "broker full",
}
OF_SUITES = {"journal": JOURNALS, "feed": BROKERS, "broker": BROKERS}
