//! A stream of what a future sends, without a task of its own.

use futures_util::{Stream, StreamExt, future, stream};
use tokio::sync::mpsc;

/// Values that the future may be ahead of its reader.
const CAPACITY: usize = 64;

/// Returns a stream of the values that the future sends. Reading the stream drives the future: it is dropped with
/// the stream, and the stream ends once the future has ended and its values are read.
pub fn channel_stream<T, F, M>(make: M) -> impl Stream<Item = T> + Send + use<T, F, M>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
    M: FnOnce(mpsc::Sender<T>) -> F,
{
    let (sender, mut values) = mpsc::channel(CAPACITY);
    let sends = stream::once(make(sender)).filter_map(|()| future::ready(None));
    let received = stream::poll_fn(move |context| values.poll_recv(context));
    stream::select(received, sends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_that_sends_more_than_fits_is_driven_by_its_reader() {
        let stream = channel_stream(async |sender| {
            for number in 0..3 * CAPACITY {
                // The reader is there until the end.
                let _ = sender.send(number).await;
            }
        });
        let all: Vec<_> = stream.collect().await;
        assert_eq!(all, (0..3 * CAPACITY).collect::<Vec<_>>());
    }
}
