// The app for iOS: times everything in runs.json, shows the lines for qtools and offers to share them.

import SwiftUI

@main
struct QtoolsBench: App {
    @State private var lines = [machineLine("ios")]
    @State private var running = true

    var body: some Scene {
        WindowGroup {
            VStack {
                Text(running ? "Measuring: leave the phone alone" : "Done: share the text as output.txt")
                ScrollView { Text(lines.joined(separator: "\n")).font(.system(size: 8, design: .monospaced)) }
                if !running { ShareLink(item: lines.joined(separator: "\n")) }
            }
            .padding()
            .task { await measure() }
        }
    }

    private func measure() async {
        guard let list = Bundle.main.url(forResource: "runs", withExtension: "json"),
            let data = try? Data(contentsOf: list), let runs = try? JSONDecoder().decode([Asked].self, from: data)
        else {
            lines.append("runs.json is missing")
            return
        }
        print(lines[0])
        for asked in runs {
            let package = Bundle.main.bundleURL.appendingPathComponent("artifacts/" + asked.artifact)
            let line = await measured(package, asked)
            print(line)
            lines.append(line)
        }
        running = false
    }
}
