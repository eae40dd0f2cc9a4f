//! Tests of the service's parts that need no model.

use super::stream::Mailbox;
use super::*;

#[test]
fn a_stream_gives_what_came_and_ends_after_the_last_completion() {
    let (commands, inbox) = unbounded();
    let mailbox = Arc::new(Mailbox::new(2));
    let mut stream = Stream::new(7, Arc::clone(&mailbox), commands);
    assert_eq!(stream.recv_timeout(Duration::from_millis(1)), None);
    let end = |choice| {
        let (reason, stats) = (crate::FinishReason::Length, crate::Stats::default());
        Event::End(End { choice, reason, stop: None, text: String::new(), stats })
    };
    for event in [Event::Started, end(0), end(1)] {
        mailbox.put(event.clone());
        assert_eq!(stream.recv_timeout(Duration::from_secs(1)), Some(event));
    }
    assert_eq!(stream.recv_timeout(Duration::from_secs(60)), None, "a stream that has ended waits for nothing");
    drop(stream);
    assert!(inbox.try_recv().is_err(), "what has ended is not aborted");
}

#[test]
fn a_stream_that_is_dropped_early_aborts_its_request() {
    let (commands, inbox) = unbounded();
    drop(Stream::new(7, Arc::new(Mailbox::new(1)), commands));
    assert!(matches!(inbox.try_recv(), Ok(Command::Abort(7))));
}
