-- threadWaitRead: select() in the plain runtime, epoll in the threaded one.
import Control.Concurrent (threadWaitRead)
import Control.Exception (IOException, try)
import Control.Monad (forever)
import System.Environment (getArgs)
import System.Exit (exitSuccess)
import System.IO
import System.Posix.IO
import System.Posix.Types (ByteCount)

main :: IO ()
main = do
  path : mode : _ <- getArgs
  hSetBuffering stdout LineBuffering
  fd <- openFd path ReadOnly Nothing defaultFileFlags {nonBlock = True}
  putStrLn "ready"
  forever $ do
    threadWaitRead fd
    if mode == "poll" then putStrLn "woken" else do
      got <- try (fdRead fd 4096) :: IO (Either IOException (String, ByteCount))
      case got of
        Right (text, _) -> putStr ("told " ++ text)
        Left failed -> putStrLn ("end " ++ show failed) >> exitSuccess
