// The command for macOS: no argument names the machine, one argument (JSON) times one artifact in artifacts/.

import Foundation

@main
struct Command {
    static func main() async {
        let words = CommandLine.arguments.dropFirst()
        guard let json = words.first else {
            print(machineLine("macos"))
            return
        }
        guard let asked = try? JSONDecoder().decode(Asked.self, from: Data(json.utf8)) else {
            FileHandle.standardError.write(Data("the argument is no JSON of a run\n".utf8))
            exit(2)
        }
        print(await measured(URL(fileURLWithPath: "artifacts/" + asked.artifact), asked))
    }
}
